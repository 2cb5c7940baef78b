"""An engine behind an OpenAI-compatible HTTP/1.1 server: vLLM, SGLang, llama.cpp, Ollama, a cloud."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from engines.base import (
    EngineDied,
    EngineError,
    EngineRequest,
    EngineResponse,
    EngineTimeout,
    EngineUnreachable,
    Operation,
    Timeouts,
)
from engines.connection import Connection, Exchange
from engines.outbox import Outbox

MAX_IDLE_CONNECTIONS = 1024
MAX_HEALTH_BYTES = 1 << 20
HEALTH_LIMITS = Timeouts(connect_s=2.0, total_s=5.0)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between the servers that speak OpenAI's protocol: where things are."""

    health_path: str = "/health"
    paths: Mapping[Operation, str] = field(
        default_factory=lambda: {
            Operation.CHAT: "/v1/chat/completions",
            Operation.COMPLETIONS: "/v1/completions",
            Operation.EMBEDDINGS: "/v1/embeddings",
            Operation.TOKENIZE: "/tokenize",
            Operation.DETOKENIZE: "/detokenize",
        }
    )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One replica's address and how to be let in."""

    name: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_file: str | None = None


class HttpEngine:
    """Implements `Engine`. Connections are reused, newest first, so that a quiet pool lets its oldest ones expire."""

    def __init__(self, endpoint: Endpoint, dialect: Dialect | None = None, outbox: Outbox | None = None) -> None:
        dialect = dialect or Dialect()
        self._outbox = outbox or Outbox()
        url = urlsplit(endpoint.url)
        if url.hostname is None:
            raise ValueError(f"{endpoint.url!r} has no host")
        self.name = endpoint.name
        self._host = url.hostname
        self._ssl = _ssl_context(endpoint.ca_file) if url.scheme == "https" else None
        self._port = url.port or (443 if self._ssl else 80)
        base = url.path.rstrip("/").removesuffix("/v1")
        lines = "".join(f"{name}: {value}\r\n" for name, value in endpoint.headers.items())
        common = f"host: {url.netloc.rpartition('@')[2]}\r\n{lines}"
        self._base = base
        self._common = common
        self._heads = {operation: self._head("POST", path) for operation, path in dialect.paths.items()}
        self._health_path = dialect.health_path
        self._idle: list[Connection] = []
        self._closed = False

    def __repr__(self) -> str:
        return f"<HttpEngine {self.name} idle={sum(not c.closed for c in self._idle)}>"

    def send(self, request: EngineRequest, timeouts: Timeouts) -> Coroutine[Any, Any, EngineResponse]:
        return self._post(self._heads[request.operation], request.body, timeouts, request.headers)

    async def healthy(self) -> bool:
        return await self._answers_well(HEALTH_LIMITS)

    async def get(self, path: str, limits: Timeouts, limit_bytes: int) -> tuple[int, bytes]:
        """Status and whole body of what is at `path`.

        Raises:
            EngineError: there is no answer, or one of more than `limit_bytes`.
        """
        response = await self._send(self._head("GET", path) + b"\r\n", limits)
        try:
            return response.status, await response.read(limit_bytes)
        finally:
            response.abort()

    async def aclose(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _is_well(self, status: int) -> bool:
        """What the status at the health path says."""
        return status == 200

    async def _answers_well(self, limits: Timeouts, headers: bytes = b"", *, whole: bool = True) -> bool:
        """Whether the health path is answered well, and with `whole` up to the end, which keeps the connection."""
        try:
            response = await self._send(self._head("GET", self._health_path) + headers + b"\r\n", limits)
            try:
                if whole:
                    await response.read(MAX_HEALTH_BYTES)
            finally:
                response.abort()
        except EngineError:
            return False
        return self._is_well(response.status)

    def _head(self, method: str, path: str) -> bytes:
        """Request line and headers that are the same for every request to `path`."""
        kind = "content-type: application/json\r\n" if method == "POST" else ""
        return f"{method} {self._base}{path} HTTP/1.1\r\n{self._common}{kind}".encode()

    def _post(
        self, head: bytes, body: bytes, timeouts: Timeouts, headers: bytes = b""
    ) -> Coroutine[Any, Any, Exchange]:
        return self._send(b"%b%bcontent-length: %d\r\n\r\n%b" % (head, headers, len(body), body), timeouts)

    async def _send(self, request: bytes, timeouts: Timeouts) -> Exchange:
        began_s = time.monotonic()
        exchange: Exchange | None = None
        try:
            kept = self._reuse()
            if kept is not None:
                exchange = kept.start(request, timeouts, began_s)
                try:
                    await exchange.head
                    return exchange
                except EngineDied:
                    # The engine closed the kept connection as we wrote: it never read this request. Once, and on a new
                    # connection, so that a request that kills engines is not shown to each kept one.
                    if kept.answered:
                        raise
            connection = await self._connect(timeouts)
            exchange = connection.start(request, timeouts, began_s)
            await exchange.head
            return exchange
        except asyncio.CancelledError:
            if exchange is not None:
                exchange.abort()
            raise

    def _reuse(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None

    async def _connect(self, limits: Timeouts) -> Connection:
        loop = asyncio.get_running_loop()
        phase, limit_s = "connect", limits.connect_s
        if limits.total_s is not None and limits.total_s < limit_s:
            phase, limit_s = "total", limits.total_s
        where = f"{self._host}:{self._port}"
        try:
            async with asyncio.timeout(limit_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, self._outbox, self._keep), self._host, self._port, ssl=self._ssl
                )
        except TimeoutError as error:
            message = f"no connection to {where} within {phase} timeout of {limit_s:g} s"
            raise EngineTimeout(message, phase=phase, limit_s=limit_s) from error
        except (OSError, UnicodeError) as error:
            raise EngineUnreachable(f"cannot connect to {where}: {error}") from error
        return connection

    def _keep(self, connection: Connection) -> None:
        if self._closed or len(self._idle) >= MAX_IDLE_CONNECTIONS:
            connection.close()
        else:
            self._idle.append(connection)


def _ssl_context(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context
