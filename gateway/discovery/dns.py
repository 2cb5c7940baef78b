"""Replicas behind one name, as a headless service of Kubernetes, Consul or Docker has them."""

from __future__ import annotations

import asyncio
import socket

from gateway.clock import Clock
from gateway.config.pool_options import DnsOptions
from gateway.discovery.base import DiscoveryError, Found


class DnsDiscovery:
    """Implements `Discovery`. The system's resolver is asked, outside the event loop."""

    def __init__(self, options: DnsOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock

    @property
    def source(self) -> str:
        return self._options.source

    async def watch(self, found: Found) -> None:
        while True:
            found(await self._resolve())
            await self._clock.sleep(self._options.every_s)

    async def _resolve(self) -> list[str]:
        options = self._options
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(max(5.0, options.every_s)):
                answers = await loop.getaddrinfo(options.name, options.port, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise DiscoveryError(f"the name {options.name!r} was not resolved in time") from None
        except (OSError, UnicodeError) as error:
            raise DiscoveryError(f"the name {options.name!r} cannot be resolved: {error}") from None
        hosts = sorted({str(address[0]) for *_, address in answers})
        return [base_url(options.scheme, host, options.port) for host in hosts]


def base_url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
