"""The HTTP/1.1 server: one protocol object per client connection, parsed by llhttp (httptools).

Model calls go to a handler with a raw sink, everything else to an ASGI application. Requests of one connection are
answered one after the other; while one is answered the connection is still read, so that a hang-up is noticed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, cast

import httptools

from gateway.errors import ApiError, HeadersTooLarge, InvalidRequest, RequestTimeout
from gateway.http import Request
from gateway.http.head import fault_of, origin_form, too_large
from gateway.http.raw_sink import RawSink
from gateway.http.state import ServerState

logger = logging.getLogger(__name__)

MAX_TARGET_BYTES = 16 * 1024
MAX_HEADERS = 200
HEAD_SLACK_BYTES = 4 * MAX_HEADERS + 64
"""What a head has on the wire beside its target, names and values."""
MAX_PIPELINED = 16
LINGER_S = 2.0
SWEEP_S = 0.5


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
        goes_on = self._sink is not None and self._sink.lost(self._lost_to)
        if self._task is not None and not goes_on:
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
        if self._state.proxies is not None:
            request.client = self._state.proxies.client_of(request)
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
