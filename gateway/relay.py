"""An engine's answer on its way to the client: a whole one is checked first, a stream passes as it comes.

On the token path stand `Connection.data_received`, `StreamRelay.splice` and the client's transport: two plain calls.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache

from engines.base import EngineError, EngineResponse, Operation
from gateway.clock import Clock
from gateway.errors import ApiError, UpstreamFailed
from gateway.http import Sink
from gateway.record import Record, Usage
from gateway.sse import KEEPALIVE, EventFilter
from gateway.upstream import Outcome, Rejection, check_whole, from_engine_error, from_stream_error, rejection
from gateway.wire import Call

MAX_WHOLE_BYTES = 256 * 1024 * 1024
MAX_ERROR_BYTES = 1024 * 1024
SSE_HEADERS = (
    b"content-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache, no-transform\r\n"
    b"x-accel-buffering: no\r\n"
)
_COUNTED = (Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS)
JSON_HEADERS = b"content-type: application/json\r\n"


class Relay:
    """Takes one call's answer to one sink, whichever attempt brings it."""

    def __init__(self, call: Call, record: Record, sink: Sink, clock: Clock, keepalive_s: float) -> None:
        self._call = call
        self._record = record
        self._sink = sink
        self._clock = clock
        self._keepalive_s = keepalive_s

    async def deliver(self, response: EngineResponse) -> Outcome:
        """Take `response` to the client.

        Returns: what the attempt says about the replica. An answer that broke off after its first byte has been
        reported to the client inside the stream, and there is nothing left to try.

        Raises:
            Rejection, EngineError: no answer, and nothing was sent.
        """
        if response.status != 200:
            body = await response.read(MAX_ERROR_BYTES)
            raise rejection(self._call.operation, response.status, response.headers, body)
        if self._call.stream and response.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            return await self._stream(response)
        return await self._whole(response)

    async def _whole(self, response: EngineResponse) -> Outcome:
        body = await response.read(MAX_WHOLE_BYTES)
        record = self._record
        usage, record.finish_reason = check_whole(self._call.operation, body)
        record.usage = usage or Usage(estimated=self._call.operation in _COUNTED)
        record.status = 200
        self._sink.start(200, JSON_HEADERS + heading(record), len(body))
        self._sink.write(body)
        self._sink.end()
        return Outcome.FINE

    async def _stream(self, response: EngineResponse) -> Outcome:
        stream = StreamRelay(self._call, self._record, self._sink, response, self._clock, self._keepalive_s)
        self._sink.bind(response)
        try:
            return await stream.run()
        finally:
            self._sink.bind(None)


class StreamRelay:
    """One stream from an engine to a sink. Implements `Receiver`.

    The head goes out with the first event, so that an engine that fails before it gets a proper status and another
    replica a chance; or with the first keep-alive comment, if the engine is silent for that long.
    """

    __slots__ = (
        "_call",
        "_clock",
        "_done",
        "_filter",
        "_keepalive_s",
        "_loop",
        "_plain",
        "_record",
        "_response",
        "_sink",
        "_spliced",
        "_spliced_bytes",
        "_timer",
    )

    def __init__(
        self,
        call: Call,
        record: Record,
        sink: Sink,
        response: EngineResponse,
        clock: Clock,
        keepalive_s: float,
    ) -> None:
        self._call = call
        self._record = record
        self._sink = sink
        self._response = response
        self._clock = clock
        self._keepalive_s = keepalive_s
        self._filter = EventFilter(strip_usage=call.adds_usage)
        self._plain = False
        """Whether chunks may be spliced: content has begun, no event is half read, the client takes chunks."""
        self._spliced = 0
        self._spliced_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[Outcome] = self._loop.create_future()
        self._timer = self._loop.call_later(keepalive_s, self._on_silence)

    async def run(self) -> Outcome:
        try:
            self._response.subscribe(self)
            return await self._done
        finally:
            self._timer.cancel()
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
                record.first_token_s = self._clock.monotonic()
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
        self._sink.end()
        self._done.set_result(Outcome.FINE)

    def on_error(self, error: EngineError) -> None:
        if not self._done.done():
            self._fail(error)

    def _send(self, out: bytes, framed: bytes | None) -> None:
        if out:
            if not self._sink.started:
                self._start()
            self._sink.write(out, framed)

    def _start(self) -> None:
        self._record.status = 200
        self._sink.start(200, SSE_HEADERS + heading(self._record))

    def _fail(self, failure: Rejection | EngineError) -> None:
        if not self._sink.started:
            self._done.set_exception(failure)
            return
        if isinstance(failure, Rejection):
            error, outcome = failure.error, failure.outcome
        else:
            error, outcome = from_engine_error(failure), Outcome.BROKEN
        note_error(self._record, error)
        self._sink.write(error.event())
        self._sink.end()
        self._done.set_result(outcome)

    def _on_silence(self) -> None:
        """Once per keep-alive interval: a comment, unless something was relayed in it (A11)."""
        silent_s = self._clock.monotonic() - (self._response.last_data_s or self._record.started_s)
        wait_s = self._keepalive_s - silent_s
        if wait_s < 0.002:
            if not self._sink.started:
                self._start()
            self._sink.write(KEEPALIVE)
            wait_s = self._keepalive_s
        self._timer = self._loop.call_later(wait_s, self._on_silence)

    def _fill_record(self) -> None:
        record, events = self._record, self._filter
        record.events = events.events + self._spliced
        record.bytes_out = self._spliced_bytes
        record.finish_reason = events.finish_reason
        record.last_token_s = self._response.last_data_s
        record.usage = events.usage or Usage(completion_tokens=record.events, estimated=True)


def heading(record: Record) -> bytes:
    """The header lines that every answer of an engine carries."""
    return b"x-request-id: %b\r\n%bx-headrace-attempts: %d\r\n" % (
        record.request_id.encode(),
        _backend(record.variant, record.pool, record.replica),
        record.attempts,
    )


@lru_cache(maxsize=4096)
def _backend(variant: str, pool: str, replica: str) -> bytes:
    return f"x-headrace-variant: {variant}\r\nx-headrace-pool: {pool}\r\nx-headrace-replica: {replica}\r\n".encode()


def note_error(record: Record, error: ApiError) -> None:
    record.error_type = error.code
    record.error_message = error.message
