"""The HTTP/1.1 server: one protocol object per client connection, parsed by llhttp (httptools).

Model calls go to a handler with a raw sink, everything else to an ASGI application. Requests of one connection are
answered one after the other; while one is answered the connection is still read, so that a hang-up is noticed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import httptools

from engines.outbox import Outbox
from gateway.config import Server as Options
from gateway.errors import ApiError, HeadersTooLarge, InvalidRequest, RequestTimeout
from gateway.http import Flow, Handler, Request
from gateway.http.cors import Cors
from gateway.http.head import fault_of, origin_form, too_large
from gateway.telemetry import Gauge

logger = logging.getLogger(__name__)

MAX_TARGET_BYTES = 16 * 1024
MAX_HEADERS = 200
HEAD_SLACK_BYTES = 4 * MAX_HEADERS + 64
"""What a head has on the wire beside its target, names and values."""
MAX_PIPELINED = 16
LINGER_S = 2.0
SWEEP_S = 0.5

_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


@dataclass(slots=True, eq=False)
class ServerState:
    """What the connections of one worker share.

    route:    the handler for a request.
    refusal:  the handler that answers with an error.
    draining: answers are the last ones of their connections.
    """

    options: Options
    route: Callable[[Request], Handler]
    refusal: Callable[[ApiError], Handler]
    connections: Gauge
    outbox: Outbox
    cors: Cors | None = None
    open: set[HttpConnection] = field(default_factory=set)
    draining: bool = False
    date_line: bytes = b""
    _all_closed: asyncio.Event = field(default_factory=asyncio.Event)

    def opened(self, connection: HttpConnection) -> None:
        self.open.add(connection)
        self.connections.inc()
        self._all_closed.clear()

    def closed(self, connection: HttpConnection) -> None:
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
        self.date_line = f"date: {formatdate(usegmt=True)}\r\n".encode()
        for connection in list(self.open):
            connection.check(now_s)

    def drain(self) -> None:
        """Finish what runs; idle connections get one more chance to carry a request, with `connection: close`."""
        self.draining = True

    def close_idle(self) -> None:
        for connection in list(self.open):
            connection.close_if_idle()


class _Incoming:
    """A request as it arrives; `error` is set as soon as it cannot be served."""

    __slots__ = ("body", "error", "expects", "headers", "http_1_0", "keep_alive", "method", "size", "target")

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []
        self.size = 0
        self.error: ApiError | None = None
        self.expects = False
        self.http_1_0 = False
        self.keep_alive = True

    def request(self, client: str) -> Request:
        body = self.body[0] if len(self.body) == 1 else b"".join(self.body)
        path = self.target.partition(b"?")[0].decode("latin-1")
        return Request(
            self.method, self.target, path, dict(self.headers), self.headers, body, client, http_1_0=self.http_1_0
        )


class HttpConnection(asyncio.Protocol):
    """One client's connection."""

    __slots__ = (
        "_client",
        "_closing_since_s",
        "_incoming",
        "_loop",
        "_lost_to",
        "_offer",
        "_parser",
        "_queue",
        "_reading",
        "_since_s",
        "_sink",
        "_state",
        "_task",
        "_transport",
        "_unparsed_bytes",
        "_unread_since_s",
    )

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport = cast(asyncio.Transport, None)
        self._client = ""
        self._incoming: _Incoming | None = None
        self._offer: _Incoming | None = None
        """A head that offers to speak another protocol."""
        self._unparsed_bytes = 0
        """At most what came since the last beginning of a request or piece of a body: the parser holds it."""
        self._queue: deque[_Incoming] = deque()
        self._sink: RawSink | None = None
        self._task: asyncio.Task[None] | None = None
        self._reading = True
        self._lost_to = "client_disconnected"
        """The error code of an answer that the end of the connection cuts off."""
        self._since_s = 0.0
        """Since when the connection waits for what it waits for: a request, the rest of one."""
        self._unread_since_s = 0.0
        """Since when the client leaves its answer unread; 0.0: it does not."""
        self._closing_since_s = 0.0
        """Since when no request is read any more; 0.0: they are."""

    def __repr__(self) -> str:
        state = (
            "closing" if self._closing_since_s else "busy" if self._task else "reading" if self._incoming else "idle"
        )
        return f"<HttpConnection {self._client} {state} queued={len(self._queue)}>"

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._client = peer[0] if isinstance(peer, tuple) else ""
        self._since_s = self._loop.time()
        self._state.opened(self)

    def data_received(self, data: bytes) -> None:
        self._unparsed_bytes += len(data)
        while data and not self._closing_since_s:
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as offered:
                data = self._declined(data[offered.args[0] :])
            except httptools.HttpParserError as error:
                self._broken(error)
        limit = self._state.options.max_header_bytes
        if self._unparsed_bytes > limit + HEAD_SLACK_BYTES and not self._closing_since_s:
            self._refuse(self._incoming or _Incoming(), self._head_too_large())

    def _declined(self, rest: bytes) -> bytes:
        """What the parser, which skips the body of a request that offers an upgrade, is to read in place of `rest`.

        Nothing here speaks another protocol, so the request is served as if it had not offered one (RFC 9110, 7.8):
        Java's HTTP client offers h2c on requests with a body.
        """
        offer, self._offer = self._offer, None
        if offer is None:
            return b""
        self._parser = httptools.HttpRequestParser(self)
        lines = b"".join(b"%b: %b\r\n" % line for line in offer.headers if line[0] != b"upgrade")
        version = b"1.0" if offer.http_1_0 else b"1.1"
        return b"%b %b HTTP/%b\r\n%b\r\n%b" % (offer.method, offer.target, version, lines, rest)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.closed(self)
        self._queue.clear()
        if self._sink is not None:
            self._sink.lost(self._lost_to)
        if self._task is not None:
            self._task.cancel()
        self._parser = cast(Any, None)  # it refers back to this object

    def pause_writing(self) -> None:
        self._unread_since_s = self._loop.time()
        if self._sink is not None:
            self._sink.pause()

    def resume_writing(self) -> None:
        self._unread_since_s = 0.0
        if self._sink is not None:
            self._sink.resume()

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        if self._closing_since_s:
            return  # a request was refused, and the parser goes on to the end of the data
        self._incoming = _Incoming()
        self._unparsed_bytes = 0
        self._since_s = self._loop.time()

    def on_url(self, url: bytes) -> None:
        incoming = self._incoming
        if incoming is None or incoming.error is not None:
            return
        incoming.target += url
        incoming.size += len(url)
        if len(incoming.target) > MAX_TARGET_BYTES:
            message = f"The request target is over {MAX_TARGET_BYTES} bytes."
            self._refuse(incoming, HeadersTooLarge(message))

    def on_header(self, name: bytes, value: bytes) -> None:
        incoming = self._incoming
        if incoming is None or incoming.error is not None or incoming.method:
            return  # a field after the body must not pass for a header, which has been judged
        name = name.lower()
        incoming.headers.append((name, value))
        incoming.size += len(name) + len(value)
        if incoming.size > self._state.options.max_header_bytes or len(incoming.headers) > MAX_HEADERS:
            self._refuse(incoming, self._head_too_large())
        elif name == b"expect" and value.lower() == b"100-continue":
            incoming.expects = True

    def on_headers_complete(self) -> None:
        incoming = self._incoming
        if incoming is None or incoming.error is not None:
            return
        parser = self._parser
        version = parser.get_http_version()
        incoming.method = parser.get_method()
        incoming.http_1_0 = version == "1.0"
        incoming.keep_alive = parser.should_keep_alive()
        incoming.size = 0
        self._since_s = self._loop.time()
        target = origin_form(incoming.method, incoming.target)
        error = fault_of(version, incoming.headers, self._state.options.max_body_bytes)
        if error is not None:
            self._refuse(incoming, error)
        elif target is None:
            self._refuse(incoming, InvalidRequest("The request target must be a path.", code="malformed_http"))
        elif parser.should_upgrade():
            self._offer, self._incoming = incoming, None
        else:
            incoming.target = target
            if incoming.expects and self._task is None and not incoming.http_1_0:
                self._state.outbox.send(self._transport, b"HTTP/1.1 100 Continue\r\n\r\n")

    def _head_too_large(self) -> HeadersTooLarge:
        limit = self._state.options.max_header_bytes
        return HeadersTooLarge(f"The headers are over {limit} bytes or {MAX_HEADERS} lines (server.max_header_bytes).")

    def on_body(self, body: bytes) -> None:
        incoming = self._incoming
        if incoming is None or incoming.error is not None:
            return
        incoming.size += len(body)
        self._since_s = self._loop.time()
        self._unparsed_bytes = 0
        limit = self._state.options.max_body_bytes
        if incoming.size > limit:
            self._refuse(incoming, too_large(incoming.size, limit))
        else:
            incoming.body.append(body)

    def on_message_complete(self) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is None or incoming.error is not None:
            return
        self._since_s = self._loop.time()
        self._enqueue(incoming)

    # Requests

    def _refuse(self, incoming: _Incoming, error: ApiError) -> None:
        """Answer without reading the rest; the connection ends with it, since where the next request begins is moot."""
        incoming.error = error
        if incoming.target:
            incoming.method = self._parser.get_method()  # of HEAD the answer has no body
        incoming.body.clear()
        incoming.keep_alive = False
        self._stop_reading()
        self._enqueue(incoming)

    def _broken(self, error: Exception) -> None:
        incoming = self._incoming or _Incoming()
        if incoming.error is None and not self._closing_since_s:
            self._refuse(incoming, InvalidRequest(f"Malformed HTTP request: {error}.", code="malformed_http"))

    def _stop_reading(self) -> None:
        self._incoming = None
        self._closing_since_s = self._loop.time()

    def _enqueue(self, incoming: _Incoming) -> None:
        self._queue.append(incoming)
        if self._task is None:
            self._next()
        elif len(self._queue) >= MAX_PIPELINED and self._reading:
            self._reading = False
            self._transport.pause_reading()

    def _next(self) -> None:
        """Begin the oldest waiting request."""
        incoming = self._queue.popleft()
        keep_alive = incoming.keep_alive and not self._state.draining
        chunked = not incoming.http_1_0
        head_only = incoming.method == b"HEAD"
        sink = self._sink = RawSink(self._transport, self._state, keep_alive, chunked, head_only)
        if self._unread_since_s:
            sink.pause()
        request = incoming.request(self._client)
        if self._state.cors is not None:
            sink.extra_lines = self._state.cors.lines(request)
        handler = self._state.refusal(incoming.error) if incoming.error else self._state.route(request)
        task = self._task = self._loop.create_task(handler(request, sink))
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        sink = self._sink
        self._task = None
        if sink is None or self._transport.is_closing():
            if not task.cancelled() and task.exception() is not None:
                logger.error("a request handler failed", exc_info=task.exception())
            return
        if task.cancelled():
            self._transport.abort()
            return
        error = task.exception()
        if error is not None:
            logger.error("a request handler failed", exc_info=error)
            self._transport.abort()
            return
        self._finished(sink)

    def _finished(self, sink: RawSink) -> None:
        """The answer is written: go on with the next request, or end the connection."""
        self._sink = None
        sink.end()
        self._since_s = self._loop.time()
        if not sink.keep_alive or not sink.whole:
            self._end()
        elif self._queue:
            self._next()
        elif self._closing_since_s:
            self._end()
        elif not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def _end(self) -> None:
        """Close; if the client is still sending, only after a while, or the reset would eat the answer."""
        self._queue.clear()
        if not self._closing_since_s:
            self._closing_since_s = self._loop.time()
            self._state.outbox.close(self._transport)
        elif self._transport.can_write_eof():
            self._state.outbox.write_eof(self._transport)
        else:
            self._state.outbox.close(self._transport)

    # Called by the sweep

    def check(self, now_s: float) -> None:
        options = self._state.options
        if self._unread_since_s and now_s - self._unread_since_s > options.write_timeout_s:
            logger.info("client %s left its answer unread for %g s; cut off", self._client, options.write_timeout_s)
            self._lost_to = "write_timeout"
            self._transport.abort()
        elif self._task is not None:
            return
        elif self._closing_since_s:
            if now_s - max(self._closing_since_s, self._since_s) > LINGER_S:
                self._transport.abort()
        elif self._incoming is not None:
            limit_s = options.body_timeout_s if self._incoming.method else options.header_timeout_s
            if now_s - self._since_s > limit_s:
                self._refuse(self._incoming, RequestTimeout(f"The request did not arrive whole within {limit_s:g} s."))
        elif now_s - self._since_s > options.idle_timeout_s:
            self._transport.close()

    def abort(self) -> None:
        """Close now, whatever is under way: the drain limit is over."""
        self._lost_to = "shutting_down"
        self._transport.abort()

    def close_if_idle(self) -> None:
        if self._task is None and self._incoming is None:
            self._state.outbox.close(self._transport)


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
        self._head = b"%b%b%b%b\r\n" % (_status_line(status), header_lines, framing, self._state.date_line)

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

    def lost(self, why: str) -> None:
        """The client is gone: what is still written goes nowhere."""
        self.gone = why
        self._flow = None
        self.whole = True
        self._write = _nowhere
        if self.splice is not None:
            self.splice = _nowhere


def _nowhere(data: bytes) -> None:
    pass


def _status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
