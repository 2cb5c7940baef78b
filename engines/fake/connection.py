"""HTTP/1.1 on a raw protocol, so that an answer can be wrong in any byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol, cast

import httptools

_REASONS = {status.value: status.phrase for status in HTTPStatus}
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    """Names in lower case, in the order received."""
    body: bytes
    keep_alive: bool

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


def head(status: int, headers: dict[str, str], *, content_type: str = JSON, length: int | None = None) -> bytes:
    """An answer's head. length None: the body is chunked."""
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}", f"content-type: {content_type}", framing]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


class Service(Protocol):
    """What stands behind the connections."""

    def connected(self, connection: Connection) -> float:
        """A client came; answers the seconds to leave it unread."""
        ...

    def disconnected(self, connection: Connection) -> None: ...

    def stalled_by(self, connection: Connection, change: int) -> None:
        """+1: the client reads too slowly; -1: it has caught up, or has gone."""
        ...

    def serve(self, connection: Connection, request: Request) -> None:
        """Answer with `send`, `write`, and one of `finish`, `close` and `reset`."""
        ...


class Connection(asyncio.Protocol):
    """One client: its requests one after the other, each answered before the next is looked at."""

    __slots__ = (
        "_body", "_continue", "_early", "_headers", "_keep_alive", "_parser", "_pending", "_service", "_target",
        "_timer", "busy", "lost", "on_gone", "on_writable", "paused", "transport",
    )  # fmt: skip
    transport: asyncio.Transport

    def __init__(self, service: Service) -> None:
        self._service = service
        self._parser = httptools.HttpRequestParser(self)
        self._pending: deque[Request] = deque()
        self._target = b""
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._keep_alive = True
        self._continue = False
        self._early: bytes | None = None
        """What came in before its time; None: it is heard at once."""
        self._timer: asyncio.TimerHandle | None = None
        self.busy = False
        self.lost = False
        self.paused = False
        self.on_gone: Callable[[], None] | None = None
        """Called once if the client goes away while its request is being answered."""
        self.on_writable: Callable[[], None] | None = None
        """Called when a client that read too slowly has caught up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's does not derive from it
        delay_s = self._service.connected(self)
        if delay_s:
            self._early = b""
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._wake)

    def _wake(self) -> None:
        early, self._early = self._early, None
        self._timer = None
        if early:
            self.transport.resume_reading()
            self.data_received(early)

    def data_received(self, data: bytes) -> None:
        if self._early is not None:
            self._early += data
            self.transport.pause_reading()  # not sooner: uvloop reads whatever `connection_made` says
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # an offer that this server lets lie; the request itself is complete
        except httptools.HttpParserError:
            if not self.busy:
                self.write(head(400, {"connection": "close"}, content_type="text/plain", length=0))
            self.transport.close()  # an answer under way learns of it as of a client that went away
            return
        self._next()  # not from within the parser, which takes every exception for a fault of the client

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.paused:
            self._service.stalled_by(self, -1)
        self._pending.clear()
        if self._timer is not None:
            self._timer.cancel()
        gone, self.on_gone, self.on_writable = self.on_gone, None, None
        if gone is not None:
            gone()
        self._service.disconnected(self)

    def pause_writing(self) -> None:
        self.paused = True
        self._service.stalled_by(self, 1)

    def resume_writing(self) -> None:
        self.paused = False
        self._service.stalled_by(self, -1)
        if self.on_writable is not None:
            self.on_writable()

    def on_message_begin(self) -> None:
        self._target, self._headers, self._body, self._continue = b"", [], [], False

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        self._headers.append((key, value.decode("latin-1")))
        self._continue = self._continue or (key == "expect" and value.lower() == b"100-continue")

    def on_headers_complete(self) -> None:
        self._keep_alive = self._parser.should_keep_alive()
        if self._continue and not self.busy:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        path, _, query = self._target.decode("latin-1").partition("?")
        method = self._parser.get_method().decode("latin-1")
        request = Request(method, path, query, self._headers, b"".join(self._body), self._keep_alive)
        self._body = []
        self._pending.append(request)

    def _next(self) -> None:
        while self._pending and not self.busy and not self.lost:
            self.busy = True
            request = self._pending.popleft()
            self._keep_alive = request.keep_alive
            self._service.serve(self, request)

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, kind: str = JSON) -> None:
        """A whole answer."""
        self.write(head(status, headers or {}, content_type=kind, length=len(body)) + body)
        self.finish()

    def write(self, data: bytes) -> None:
        if not self.lost:
            self.transport.write(data)

    def finish(self) -> None:
        """The answer is complete; the next request's turn comes in the next turn of the loop."""
        self._let_go()
        self.busy = False
        if not self._keep_alive:
            self.transport.close()
        elif self._pending:
            asyncio.get_running_loop().call_soon(self._next)

    def close(self) -> None:
        """Send what is written, then close."""
        self._let_go()
        self.transport.close()

    def reset(self) -> None:
        """Cut the connection with a TCP reset."""
        self._let_go()
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _let_go(self) -> None:
        self.on_gone = self.on_writable = None
