"""An answer on its way to a client's transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from http import HTTPStatus

from gateway.http import Flow
from gateway.http.state import ServerState

_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


class RawSink:
    """An answer on a client's connection. Implements `Sink`.

    keep_alive: the connection may carry another request after this answer.
    whole:      the answer has been written to its end.
    """

    __slots__ = (
        "_chunked",
        "_flow",
        "_head",
        "_head_only",
        "_may_chunk",
        "_paused",
        "_state",
        "_transport",
        "_write",
        "bytes_out",
        "extra_lines",
        "gone",
        "keep_alive",
        "on_lost",
        "splice",
        "started",
        "status",
        "whole",
    )

    def __init__(
        self, transport: asyncio.Transport, state: ServerState, keep_alive: bool, may_chunk: bool, head_only: bool
    ) -> None:
        self._transport = transport
        self._write: Callable[[bytes], None] = partial(state.outbox.send, transport)
        self._state = state
        self._may_chunk = may_chunk
        self._head_only = head_only
        self._chunked = False
        self._head = b""
        self._flow: Flow | None = None
        self._paused = False
        self.keep_alive = keep_alive
        self.on_lost: Callable[[], bool] | None = None
        self.splice: Callable[[bytes], None] | None = None
        self.started = False
        self.whole = False
        self.bytes_out = 0
        self.extra_lines = b""
        self.status = 0
        self.gone = ""

    def start(self, status: int, header_lines: bytes, length_bytes: int | None = None) -> None:
        """Goes out together with the first piece of the body: one system call instead of two."""
        self.started = True
        self.status = status
        framing = self.extra_lines
        if length_bytes is not None:
            framing += b"content-length: %d\r\n" % length_bytes
        elif self._may_chunk:
            framing += b"transfer-encoding: chunked\r\n"
            self._chunked = not self._head_only
        else:
            self.keep_alive = False
        if not self.keep_alive or self._state.draining:
            self.keep_alive = False
            framing += b"connection: close\r\n"
        elif not self._may_chunk:
            framing += b"connection: keep-alive\r\n"  # an HTTP/1.0 client goes by it
        self._head = b"%b%b%b%b\r\n" % (_status_line(status), header_lines, framing, self._state.end_lines)

    def write(self, payload: bytes, framed: bytes | None = None) -> None:
        self.bytes_out += len(payload)
        if self._head:
            self._write_first(payload)
        elif framed is not None and self._chunked:
            self._write(framed)
        elif self._chunked:
            if payload:
                self._write(b"%x\r\n%b\r\n" % (len(payload), payload))
        elif not self._head_only:
            self._write(payload)

    def _write_first(self, payload: bytes) -> None:
        head, self._head = self._head, b""
        if self._head_only or not payload:
            self._write(head)
        elif self._chunked:
            self.splice = self._write
            self._write(b"%b%x\r\n%b\r\n" % (head, len(payload), payload))
        else:
            self._write(head + payload)

    def end(self) -> None:
        if not self.whole and self.started:
            self.whole = True
            if self._head:
                self._write_first(b"")
            if self._chunked:
                self._write(b"0\r\n\r\n")

    def bind(self, flow: Flow | None) -> None:
        self._flow = flow
        if flow is not None and self._paused:
            flow.pause()

    def pause(self) -> None:
        self._paused = True
        if self._flow is not None:
            self._flow.pause()

    def resume(self) -> None:
        self._paused = False
        if self._flow is not None:
            self._flow.resume()

    def lost(self, why: str) -> bool:
        """The client is gone: what is still written goes nowhere. Whether its call goes on all the same."""
        self.gone = why
        self._flow = None
        self.whole = True
        self._write = _nowhere
        if self.splice is not None:
            self.splice = _nowhere
        return self.on_lost is not None and self.on_lost()


def _nowhere(data: bytes) -> None:
    pass


def _status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
