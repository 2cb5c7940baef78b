"""An engine's answer on its way to the client: a whole one is checked first, a stream passes as it comes.

On the token path stand `Connection.data_received`, `StreamRelay.splice` and the client's transport: two plain calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

from engines.base import EngineError, EngineResponse, Operation
from gateway.clock import Clock
from gateway.errors import UpstreamFailed
from gateway.http import Sink
from gateway.record import Record, Usage
from gateway.sse import KEEPALIVE, EventFilter
from gateway.telemetry import Redactor
from gateway.upstream import (
    BYTES_PER_TOKEN,
    Outcome,
    Rejection,
    check_whole,
    from_engine_error,
    from_stream_error,
    rejection,
)
from gateway.wire import Call
from router.load import Work

MAX_WHOLE_BYTES = 256 * 1024 * 1024
MAX_ERROR_BYTES = 1024 * 1024
SSE_HEADERS = (
    b"content-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache, no-transform\r\n"
    b"x-accel-buffering: no\r\n"
)
_COUNTED = (Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS)
JSON_HEADERS = b"content-type: application/json\r\n"


class KeepAlive:
    """Comments on a stream that is silent, from the sending of its request to its end (A11).

    The first one brings the head with it. A comment is no answer: another replica may still be tried.
    """

    __slots__ = ("_clock", "_interval_s", "_loop", "_record", "_sink", "_timer", "response")

    def __init__(self, record: Record, sink: Sink, clock: Clock, interval_s: float) -> None:
        self._record = record
        self._sink = sink
        self._clock = clock
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(interval_s, self._on_silence)
        self.response: EngineResponse | None = None
        """What is being relayed."""

    def stop(self) -> None:
        """Nothing may follow the end of a body."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_silence(self) -> None:
        """Once per interval: a comment, unless something was relayed in it."""
        last_s = self.response.last_data_s if self.response is not None else 0.0
        wait_s = self._interval_s - (self._clock.monotonic() - (last_s or self._record.started_s))
        if wait_s < 0.002:
            start_stream(self._sink, self._record)
            self._sink.write(KEEPALIVE)
            wait_s = self._interval_s
        self._timer = self._loop.call_later(wait_s, self._on_silence)


class Relay:
    """Takes one call's answer to one sink, whichever attempt brings it. Used as a context for the whole dispatch."""

    def __init__(
        self, call: Call, record: Record, sink: Sink, clock: Clock, keepalive_s: float, redactor: Redactor
    ) -> None:
        self._redactor = redactor
        self._call = call
        self._record = record
        self._sink = sink
        self._clock = clock
        self._keepalive_s = keepalive_s
        self._keepalive: KeepAlive | None = None

    def __enter__(self) -> Self:
        if self._call.stream:
            self._keepalive = KeepAlive(self._record, self._sink, self._clock, self._keepalive_s)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._keepalive is not None:
            self._keepalive.stop()
        record = self._record
        if isinstance(error, asyncio.CancelledError) and record.attempts and not record.usage.prompt_tokens:
            # The engine has read it, though nobody waits for what it says: limits would not hold for whoever hangs up.
            record.usage = _counted(Usage(estimated=True), self._call)

    def deliver(self, response: EngineResponse, work: Work) -> Coroutine[Any, Any, Outcome]:
        """Take `response` to the client. `work` is told of its first token.

        Returns: what the attempt says about the replica. An answer that broke off after its first byte has been
        reported to the client inside the stream, and there is nothing left to try.

        Raises:
            Rejection, EngineError: no answer, and nothing but comments was sent.
        """
        if response.status != 200:
            return self._refused(response)
        if self._keepalive is not None and response.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            return self._stream(response, work, self._keepalive)
        return self._whole(response)

    async def _refused(self, response: EngineResponse) -> Outcome:
        body = await response.read(MAX_ERROR_BYTES)
        kind = self._record.engine_kind
        raise rejection(self._call.operation, response.status, response.headers, body, kind)

    async def _whole(self, response: EngineResponse) -> Outcome:
        body = await response.read(MAX_WHOLE_BYTES)
        record = self._record
        usage, record.finish_reason = check_whole(self._call.operation, body)
        record.usage = _counted(usage, self._call)
        if self._sink.started:
            raise Rejection(UpstreamFailed("The engine answered a stream with a whole answer."), Outcome.BROKEN)
        record.status = 200
        self._sink.start(200, JSON_HEADERS + heading(record), len(body))
        self._sink.write(body)
        self._sink.end()
        return Outcome.FINE

    async def _stream(self, response: EngineResponse, work: Work, keepalive: KeepAlive) -> Outcome:
        stream = StreamRelay(self._call, self._record, self._sink, response, work, keepalive, self._redactor)
        self._sink.bind(response)
        keepalive.response = response
        try:
            return await stream.run()
        finally:
            self._sink.bind(None)
            keepalive.response = None


class StreamRelay:
    """One stream from an engine to a sink. Implements `Receiver`.

    The head goes out with the first event, so that an engine that fails before it gets a proper status and another
    replica a chance.
    """

    __slots__ = (
        "_begun",
        "_call",
        "_done",
        "_filter",
        "_keepalive",
        "_plain",
        "_record",
        "_redactor",
        "_response",
        "_sink",
        "_spliced",
        "_spliced_bytes",
        "_work",
    )

    def __init__(
        self,
        call: Call,
        record: Record,
        sink: Sink,
        response: EngineResponse,
        work: Work,
        keepalive: KeepAlive,
        redactor: Redactor,
    ) -> None:
        self._redactor = redactor
        self._call = call
        self._record = record
        self._sink = sink
        self._response = response
        self._work = work
        self._keepalive = keepalive
        self._filter = EventFilter(strip_usage=call.adds_usage, choices=call.choices)
        self._begun = False
        """Whether anything of the answer has gone out."""
        self._plain = False
        """Whether chunks may be spliced: content has begun, no event is half read, the client takes chunks."""
        self._spliced = 0
        self._spliced_bytes = 0
        self._done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    async def run(self) -> Outcome:
        try:
            self._response.subscribe(self)
            return await self._done
        finally:
            self._fill_record()

    # Receiver

    def splice(self, chunk: bytes) -> bool:
        if (
            self._plain
            and chunk.endswith(b"}\n\n\r\n")
            and chunk.find(b'"usage"') < 0  # a third faster than `in`
            and chunk.find(b'"error"') < 0
            and chunk.find(b'_reason":"') < 0
        ):
            self._spliced += 1
            self._spliced_bytes += len(chunk)
            self._sink.splice(chunk)  # type: ignore[misc]
            return True
        return False

    def on_data(self, payload: bytes, framed: bytes | None) -> None:
        try:
            feed = self._filter.feed(payload)
        except ValueError as error:
            self._response.abort()
            self._fail(Rejection(UpstreamFailed(f"{error}."), Outcome.BROKEN))
            return
        if feed.content:
            record = self._record
            if not record.first_token_s:
                record.first_token_s = self._response.last_data_s
                self._work.first_token(record.first_token_s)
        self._send(feed.out, framed if feed.out == payload else None)
        if feed.error is not None:
            self._response.abort()
            self._fail(from_stream_error(self._call.operation, feed.error))
            return
        self._plain = (
            bool(self._record.first_token_s)
            and self._filter.between_events
            and self._sink.splice is not None
            and payload.find(b'": ') < 0  # JSON with spaces: `splice` would not see its finish reason
        )

    def on_end(self) -> None:
        if self._done.done():
            return
        events = self._filter
        if not events.complete:
            error = UpstreamFailed("The engine ended its stream before the answer was complete.", code="upstream_died")
            self._fail(Rejection(error, Outcome.BROKEN))
            return
        self._send(events.held, None)
        self._keepalive.stop()
        self._sink.end()
        self._done.set_result(Outcome.FINE)

    def on_error(self, error: EngineError) -> None:
        if not self._done.done():
            self._fail(error)

    def _send(self, out: bytes, framed: bytes | None) -> None:
        if out:
            if not self._begun:
                self._begun = True
                start_stream(self._sink, self._record)
            self._sink.write(out, framed)

    def _fail(self, failure: Rejection | EngineError) -> None:
        if not self._begun:
            self._done.set_exception(failure)
            return
        if isinstance(failure, Rejection):
            error, outcome = failure.error, failure.outcome
        else:
            error, outcome = from_engine_error(failure), Outcome.BROKEN
        error.clean(self._redactor.text)
        self._record.note(error)
        self._keepalive.stop()
        self._sink.write(error.event())
        self._sink.end()
        self._done.set_result(outcome)

    def _fill_record(self) -> None:
        record, events = self._record, self._filter
        record.events = events.events + self._spliced
        record.bytes_out = self._spliced_bytes
        record.finish_reason = events.finish_reason
        record.last_token_s = self._response.last_data_s
        estimate = Usage(completion_tokens=events.tokens + self._spliced, estimated=True)
        record.usage = _counted(events.usage or estimate, self._call)


def _counted(usage: Usage, call: Call) -> Usage:
    """With an estimate of the prompt, if the engine counted nothing."""
    if usage.estimated and call.operation not in _COUNTED:
        return Usage()
    if usage.estimated:
        usage.prompt_tokens = len(call.body) // BYTES_PER_TOKEN
    return usage


def start_stream(sink: Sink, record: Record) -> None:
    """Send the head, unless it is out."""
    if not sink.started:
        record.status = 200
        sink.start(200, SSE_HEADERS + heading(record))


def heading(record: Record) -> bytes:
    """The header lines that every answer of an engine carries."""
    lines = b"%bx-headrace-attempts: %d\r\nx-headrace-route: %b; predicted-ttft-ms=%d\r\n" % (
        _backend(record.variant, record.pool, record.replica),
        record.attempts,
        record.route_reason.encode(),
        record.predicted_ttft_s * 1e3,
    )
    if record.queue_position:
        lines += b"x-headrace-queue-position: %d\r\nx-headrace-queued-ms: %d\r\n" % (
            record.queue_position,
            record.queued_s * 1e3,
        )
    return lines if not record.fallback else lines + b"x-headrace-fallback: %b\r\n" % record.fallback.encode()


@lru_cache(maxsize=4096)
def _backend(variant: str, pool: str, replica: str) -> bytes:
    return f"x-headrace-variant: {variant}\r\nx-headrace-pool: {pool}\r\nx-headrace-replica: {replica}\r\n".encode()
