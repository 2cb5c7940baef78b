"""One request to an engine that the test plays, and those who receive its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from engines.base import EngineError, EngineRequest, Operation, Timeouts
from engines.http import Endpoint, HttpEngine
from tests.engines.server import Peer, engine_server

Script = Callable[[Peer], Awaitable[None]]
ASK = EngineRequest(Operation.CHAT, b'{"model":"m"}', headers=b"x-request-id: r1\r\n")
LIMITS = Timeouts(connect_s=5, total_s=20)
HI = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def client(script: Script) -> AsyncIterator[HttpEngine]:
    async with engine_server(script) as url:
        engine = HttpEngine(Endpoint("e", url, {"authorization": "Bearer engine-key"}))
        try:
            yield engine
        finally:
            await engine.aclose()


async def whole(engine: HttpEngine, limits: Timeouts = LIMITS) -> bytes:
    response = await engine.send(ASK, limits)
    return await response.read(1 << 20)


class Collector:
    """A receiver that keeps everything and can be waited for."""

    def __init__(self) -> None:
        self.pieces: list[tuple[bytes, bytes | None]] = []
        self.ended = asyncio.Event()
        self.arrived = asyncio.Event()
        self.error: EngineError | None = None

    @property
    def body(self) -> bytes:
        return b"".join(payload for payload, _ in self.pieces)

    def on_data(self, payload: bytes, framed: bytes | None) -> None:
        self.pieces.append((payload, framed))
        self.arrived.set()

    def splice(self, chunk: bytes) -> bool:
        return False

    def on_end(self) -> None:
        assert not self.ended.is_set()
        self.ended.set()

    def on_error(self, error: EngineError) -> None:
        assert not self.ended.is_set()
        self.error = error
        self.ended.set()


class Splicer(Collector):
    """Takes whole chunks as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.spliced: list[bytes] = []

    def splice(self, chunk: bytes) -> bool:
        if not chunk.endswith(b"}\n\n\r\n"):
            return False
        self.spliced.append(chunk)
        self.arrived.set()
        return True


async def echo(peer: Peer) -> None:
    while request := await peer.request():
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request), request))


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.closed()


async def head_only(peer: Peer) -> None:
    await peer.request()
    await peer.send(STREAM)
    await peer.closed()


async def one_piece(peer: Peer) -> None:
    await peer.request()
    await peer.send(STREAM + b"2\r\nhi\r\n")
    await peer.closed()


async def dripping(peer: Peer) -> None:
    await peer.request()
    await peer.send(STREAM)
    while True:
        await peer.send(b"2\r\nhi\r\n")
        await asyncio.sleep(0.03)
