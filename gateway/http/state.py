"""What the connections of one worker share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Protocol

from engines.outbox import Outbox
from gateway.config import Server as Options
from gateway.config.version import UNVERSIONED
from gateway.errors import ApiError
from gateway.http import Handler, Request
from gateway.http.cors import Cors
from gateway.http.proxies import Proxies
from gateway.telemetry import Gauge


class Connection(Protocol):
    """A client's connection, as those see it who look after all of them."""

    def check(self, now_s: float) -> None:
        """Close what has been silent, half sent or unread for too long."""
        ...

    def close_if_idle(self) -> None: ...

    def abort(self) -> None:
        """Close now, whatever is under way."""
        ...


@dataclass(slots=True, eq=False)
class ServerState:
    """One for each worker.

    route:    the handler for a request.
    refusal:  the handler that answers with an error.
    proxies:  None where none is trusted to say who the client is.
    draining: answers are the last ones of their connections.
    version:  of the configuration, for `x-headrace-config`.
    end_lines: header lines that every answer ends with.
    """

    options: Options
    route: Callable[[Request], Handler]
    refusal: Callable[[ApiError], Handler]
    connections: Gauge
    outbox: Outbox
    cors: Cors | None = None
    proxies: Proxies | None = None
    open: set[Connection] = field(default_factory=set)
    draining: bool = False
    version: str = str(UNVERSIONED)
    end_lines: bytes = b""
    _all_closed: asyncio.Event = field(default_factory=asyncio.Event)

    def opened(self, connection: Connection) -> None:
        self.open.add(connection)
        self.connections.inc()
        self._all_closed.clear()

    def closed(self, connection: Connection) -> None:
        self.open.discard(connection)
        self.connections.dec()
        if not self.open:
            self._all_closed.set()

    async def closed_within(self, limit_s: float) -> bool:
        """Wait until no connection is open; False if one still is after `limit_s`."""
        if not self.open:
            return True
        try:
            async with asyncio.timeout(limit_s):
                await self._all_closed.wait()
        except TimeoutError:
            return False
        return True

    def sweep(self, now_s: float) -> None:
        """Close what has been silent, half sent or unread for too long. Called every `SWEEP_S`."""
        self.end_lines = f"x-headrace-config: {self.version}\r\ndate: {formatdate(usegmt=True)}\r\n".encode()
        for connection in list(self.open):
            connection.check(now_s)

    def drain(self) -> None:
        """Finish what runs; idle connections get one more chance to carry a request, with `connection: close`."""
        self.draining = True

    def close_idle(self) -> None:
        for connection in list(self.open):
            connection.close_if_idle()
