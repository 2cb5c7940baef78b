"""A running gateway, and the ways to talk to it."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from gateway.app import Gateway
from tests.harness.configs import CHAT, Json
from tests.harness.waiting import PATIENCE_S, settled
from tests.harness.wire import Wire, named, request_bytes


@dataclass
class Server:
    """A running gateway, and ways to talk to it. `trust` is for one that serves TLS."""

    gateway: Gateway
    port: int
    log: Path
    host: str = "127.0.0.1"
    trust: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.gateway.config.server.tls else 'http'}://{self.host}:{self.port}"

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
        verify = self.trust or False
        async with httpx.AsyncClient(
            base_url=self.url, trust_env=False, timeout=PATIENCE_S, verify=verify, **options
        ) as client:
            yield client

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with self.client() as client:
            return await client.request(method, path, **options)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.request("GET", path, headers=named(headers))

    async def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.request("POST", path, content=content, headers=named(headers))

    @asynccontextmanager
    async def connected(self, *, receive_bytes: int | None = None) -> AsyncIterator[Wire]:
        """A connection of its own. `receive_bytes`: the size of its receive buffer, for a client that reads slowly."""
        sock = socket.socket()
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (self.host, self.port))
        name = "localhost" if self.trust else None
        reader, writer = await asyncio.open_connection(sock=sock, ssl=self.trust, server_hostname=name, limit=4096)
        async with Wire(reader, writer) as wire:
            yield wire

    @asynccontextmanager
    async def asking(self, body: object, path: str = CHAT, **headers: str) -> AsyncIterator[Wire]:
        """A connection on which a request has just been sent."""
        async with self.connected() as wire:
            await wire.send(request_bytes("POST", path, body, **headers))
            yield wire

    async def metrics(self) -> dict[str, float]:
        return metrics_in((await self.get("/metrics")).text)

    async def records(self, count: int = 1) -> list[Json]:
        """The access log once it has `count` lines."""
        await settled(
            lambda: None if len(self._lines()) >= count else self._lines() or "none", f"under {count} records", 5.0
        )
        return [msgspec.json.decode(line) for line in self._lines()]

    def _lines(self) -> list[bytes]:
        return [line for line in self.log.read_bytes().split(b"\n") if line]


def metrics_in(text: str) -> dict[str, float]:
    """Prometheus text as `name{labels}` to value."""
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}
