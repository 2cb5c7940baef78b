"""Clients without a network, and answers for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.http import Flow

OPENING = b'data: {"id":"i","object":"chat.completion.chunk","created":5,"model":"m","choices":[{"index":0,"delta":'
FINISH = OPENING + b'{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def token(text: str) -> bytes:
    return OPENING + b'{"content":"%b"},"finish_reason":null}]}\n\n' % text.encode()


class Client:
    """Implements `Sink`. full_after: bytes that it takes before it has to read; it reads by `read`."""

    def __init__(self, full_after: int | None = None) -> None:
        self.got = b""
        self.started = self.whole = False
        self.status = 0
        self.gone = ""
        self.extra_lines = b""
        self.on_lost: Callable[[], bool] | None = None
        self.head = b""
        self.length: int | None = None
        self.splice: Callable[[bytes], None] | None = None
        self.framed: list[bytes | None] = []
        self.flow: Flow | None = None
        self._full_after = full_after
        self._unread = 0
        self._news = asyncio.Event()

    @property
    def bytes_out(self) -> int:
        return len(self.got)

    def start(self, status: int, header_lines: bytes, length_bytes: int | None = None) -> None:
        assert not self.started, "a second head"
        self.started, self.status, self.head, self.length = True, status, header_lines, length_bytes
        self._news.set()

    def write(self, payload: bytes, framed: bytes | None = None) -> None:
        assert self.started, "a body before its head"
        assert not self.whole, "something after the end"
        self.got += payload
        self.framed.append(framed)
        self._unread += len(payload)
        self._news.set()
        if self.full and self.flow is not None:
            self.flow.pause()

    def end(self) -> None:
        self.whole = True
        self._news.set()

    def bind(self, flow: Flow | None) -> None:
        self.flow = flow
        if flow is not None and self.full:
            flow.pause()

    @property
    def full(self) -> bool:
        return self._full_after is not None and self._unread > self._full_after

    def read(self) -> None:
        """Make room."""
        self._unread = 0
        if self.flow is not None:
            self.flow.resume()

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._news.clear()
            await self._news.wait()

    async def has(self, part: bytes) -> None:
        await self.until(lambda: part in self.got)
