"""One HTTP/1.1 connection of a client, as a protocol: one request at a time, no task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import httptools

from loadtest.answer import AnswerReader
from loadtest.asks import Ask
from loadtest.results import Failure, Outcome


class Connection(asyncio.Protocol):
    """Sends requests and tells `on_end` of each when it is over; `usable` then says if it can carry another.

    timeout_s: for each request, from sending to its end.
    """

    def __init__(self, timeout_s: float, on_end: Callable[[Connection, Outcome], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._outcome: Outcome | None = None
        self._answer: AnswerReader | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._pause_s = 0.0
        self._has_end = False
        self.usable = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not derive from it
        self.usable = True

    def send(self, head: bytes, ask: Ask, outcome: Outcome) -> None:
        """Put one request on the wire. The connection must be `usable` and at rest.

        head: request line and headers, up to the value of content-length.
        """
        assert self._transport is not None
        self._outcome, self._answer = outcome, AnswerReader(outcome)
        self._parser = httptools.HttpResponseParser(self)
        self._has_end = False
        self._pause_s = ask.read_pause_s
        call_later = self._loop.call_later
        self._timers = [call_later(self._timeout_s, self._end, Failure.TIMEOUT)]
        if ask.hang_up_after_s is not None:
            self._timers.append(call_later(ask.hang_up_after_s, self._end, Failure.HUNG_UP))
        self._transport.write(b"%b%d\r\n\r\n%b" % (head, len(ask.body), ask.body))

    def close(self) -> None:
        """Go away; a request on its way counts as hung up."""
        self._end(Failure.HUNG_UP)
        self._drop()

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self._drop()  # bytes that nobody asked for
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._end(Failure.MALFORMED)
        if self._pause_s and self._outcome is not None and self._transport is not None:
            self._transport.pause_reading()
            self._timers.append(self._loop.call_later(self._pause_s, self._resume))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport, self.usable = None, False
        if error is None and self._outcome is not None and self._outcome.status and not self._has_end:
            self._complete()  # a body that goes up to the end of the connection
        self._end(Failure.CUT)

    # What httptools calls

    def on_headers_complete(self) -> None:
        assert self._outcome is not None
        if self._parser is not None:
            self._outcome.status = self._parser.get_status_code()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if self._outcome is not None and name == b"content-type":
            self._outcome.streams = value.startswith(b"text/event-stream")
        elif name in (b"content-length", b"transfer-encoding"):
            self._has_end = True

    def on_body(self, body: bytes) -> None:
        if self._answer is not None:
            self._answer.feed(body, time.monotonic())

    def on_message_complete(self) -> None:
        if self._outcome is None or self._outcome.status < 200:
            return
        if self._parser is not None and not self._parser.should_keep_alive():
            self._drop()
        self._complete()

    # Ends

    def _complete(self) -> None:
        assert self._answer is not None and self._outcome is not None
        self._answer.end(time.monotonic())
        self._over(self._outcome)

    def _resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def _end(self, failure: Failure) -> None:
        """The request is over before its answer is."""
        if self._outcome is None:
            return
        self._outcome.failure = self._outcome.failure or failure
        self._outcome.end_s = time.monotonic()
        self._drop()
        self._over(self._outcome)

    def _over(self, outcome: Outcome) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers = []
        self._outcome = self._answer = self._parser = None
        if self._pause_s:
            self._drop()
        # Not from within the parser: the next request on this connection needs a new one.
        self._loop.call_soon(self._on_end, self, outcome)

    def _drop(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
