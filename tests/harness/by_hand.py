"""Engines that the test plays by hand, and some that are not there."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.harness.configs import MODEL, Json
from tests.harness.waiting import PATIENCE_S

SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def framed(payload: bytes) -> bytes:
    """One HTTP/1.1 chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def whole(body: bytes, status: str = "200 OK", *lines: str) -> bytes:
    """An answer with its length."""
    more = "".join(f"{line}\r\n" for line in lines)
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def token(text: str, **fields: Any) -> bytes:
    """A chat chunk as an event."""
    choice: Json = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    chunk = {"id": "x", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice | fields]}
    return b"data: %b\n\n" % json.dumps(chunk).encode()


FINISH = token("", delta={}, finish_reason="stop")
DONE = b"data: [DONE]\n\n"


@dataclass
class Turn:
    """A request that has reached the engine by hand, to be answered with `send`. `gone`: the gateway hung up."""

    head: str
    body: bytes
    writer: asyncio.StreamWriter
    gone: asyncio.Event

    @property
    def headers(self) -> dict[str, str]:
        return dict(line.split(": ", 1) for line in self.head.split("\r\n")[1:])

    @property
    def json(self) -> Json:
        found: Json = json.loads(self.body)
        return found

    def send(self, *pieces: bytes) -> None:
        """Each piece is written at once, as one segment if it is small."""
        for piece in pieces:
            self.writer.write(piece)

    def events(self, *events: bytes) -> None:
        self.send(*map(framed, events))

    def end(self) -> None:
        self.send(b"0\r\n\r\n")

    def close(self) -> None:
        self.writer.close()


class HandEngine:
    """Every request waits until the test answers it."""

    def __init__(self, scheme: str) -> None:
        self.port = 0
        self._scheme = scheme
        self._turns: asyncio.Queue[Turn] = asyncio.Queue()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        return f"{self._scheme}://{'localhost' if self._scheme == 'https' else '127.0.0.1'}:{self.port}"

    async def turn(self) -> Turn:
        """The next request."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._turns.get()

    @property
    def waiting(self) -> int:
        """Requests that no `turn` has taken."""
        return self._turns.qsize()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        gone = asyncio.Event()
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n")
                length = next(line[16:] for line in head.lower().split("\r\n") if line.startswith("content-length: "))
                await self._turns.put(Turn(head, await reader.readexactly(int(length)), writer, gone))
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            gone.set()
            writer.close()
            del self._connections[task]

    async def aclose(self) -> None:
        for writer in self._connections.values():
            writer.transport.abort()
        await asyncio.gather(*self._connections, return_exceptions=True)


@asynccontextmanager
async def engine_by_hand(tls: ssl.SSLContext | None = None) -> AsyncIterator[HandEngine]:
    engine = HandEngine("https" if tls else "http")
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, ssl=tls)
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()
        await engine.aclose()
        await server.wait_closed()


@contextmanager
def no_answer() -> Iterator[str]:
    """The URL of a host to which no connection can be made, nor fails: the backlog of its socket is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def nobody() -> Iterator[str]:
    """The URL of a port at which nobody listens, for as long as the block lasts."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
