"""One HTTP/1.1 connection to an engine and the exchange it carries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

from engines.base import (
    EngineDied,
    EngineError,
    EngineProtocolError,
    EngineTimeout,
    Receiver,
    Timeouts,
)
from engines.http1 import CHUNK_SIZES, ResponseDecoder
from engines.outbox import Outbox

_now = time.monotonic


class Exchange:
    """One request and its answer. Implements `EngineResponse`; `head` resolves when the answer's head is there.

    The exchange holds its connection until the body is complete, then gives it back; `abort` closes it instead.

    began_s: the instant from which the total limit counts; it may lie before the connection stood.
    """

    __slots__ = (
        "_began_s",
        "_connection",
        "_early",
        "_ended",
        "_error",
        "_finished",
        "_limits",
        "_loop",
        "_on_data",
        "_receiver",
        "_resumed_s",
        "_sent_s",
        "_timer",
        "head",
        "headers",
        "last_data_s",
        "splice",
        "status",
    )

    def __init__(
        self, connection: Connection, limits: Timeouts, loop: asyncio.AbstractEventLoop, began_s: float
    ) -> None:
        self._connection = connection
        self._limits = limits
        self._loop = loop
        self._early: list[tuple[bytes, bytes | None]] = []
        self._receiver: Receiver | None = None
        self._on_data: Callable[[bytes, bytes | None], None] | None = None
        self.splice: Callable[[bytes], bool] | None = None
        self._finished: asyncio.Future[None] | None = None
        self._ended = False
        self._error: EngineError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sent_s = _now()
        self._began_s = began_s
        self._resumed_s = 0.0
        self.last_data_s = 0.0
        self.head: asyncio.Future[None] = loop.create_future()
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._arm()

    def __repr__(self) -> str:
        state = "failed" if self._error else "complete" if self._ended else "open"
        return f"<Exchange {state} status={self.status}>"

    # Target of the decoder

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status
        self.headers = headers
        if not self.head.done():
            self.head.set_result(None)

    def on_body(self, payload: bytes, framed: bytes | None) -> None:
        self.last_data_s = _now()
        if self._on_data is not None:
            self._on_data(payload, framed)
        else:
            self._early.append((payload, framed))

    def on_complete(self) -> None:
        self._ended = True
        self._stop_timer()
        self._connection.exchange_complete()
        self._notify()

    def fail(self, error: EngineError) -> None:
        """Ends the exchange; the connection is already closed or unusable. Idempotent."""
        if self._ended or self._error is not None:
            return
        self._error = error
        self._stop_timer()
        if not self.head.done():
            self.head.set_exception(error)
            self.head.exception()
        else:
            self._notify()

    def _notify(self) -> None:
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)
        receiver, self._receiver, self._on_data, self.splice = self._receiver, None, None, None
        if receiver is None:
            return
        if self._error is not None:
            receiver.on_error(self._error)
        else:
            receiver.on_end()

    # EngineResponse

    async def read(self, limit_bytes: int) -> bytes:
        size = 0
        chunks: list[bytes] = []
        while True:
            early, self._early = self._early, []
            for payload, _ in early:
                size += len(payload)
                chunks.append(payload)
            if size > limit_bytes:
                self.abort()
                raise EngineProtocolError(f"the engine's answer is over {limit_bytes} bytes")
            if self._error is not None:
                raise self._error
            if self._ended:
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)
            await self._more()

    async def _more(self) -> None:
        self._finished = self._loop.create_future()
        self._on_data = self._collect
        try:
            await self._finished
        finally:
            self._finished = None
            self._on_data = None

    def _collect(self, payload: bytes, framed: bytes | None) -> None:
        self._early.append((payload, framed))
        if len(self._early) > 64 and self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    def subscribe(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self.splice = receiver.splice
        early, self._early = self._early, []
        for payload, framed in early:
            receiver.on_data(payload, framed)
            if self._receiver is None:
                return
        if self._ended or self._error is not None:
            self._notify()
        else:
            self._on_data = receiver.on_data

    def pause(self) -> None:
        if not self._ended:
            self._connection.pause_reading()

    def resume(self) -> None:
        if not self._ended:
            self._resumed_s = _now()
            self._connection.resume_reading()

    def abort(self) -> None:
        self._receiver = None
        self._on_data = None
        self.splice = None
        if not self._ended and self._error is None:
            self._error = EngineDied("the exchange was aborted")
            self._stop_timer()
            self._connection.abort()
            self._notify()

    # Time limits: one timer an exchange, re-armed only when it fires

    def _deadline(self) -> tuple[float, str, float] | None:
        limits = self._limits
        due: list[tuple[float, str, float]] = []
        if limits.total_s is not None:
            due.append((self._began_s + limits.total_s, "total", limits.total_s))
        if not self.last_data_s and limits.ttft_s is not None:
            due.append((self._sent_s + limits.ttft_s, "ttft", limits.ttft_s))
        if self.last_data_s and limits.idle_s is not None and not self._connection.paused:
            # While nobody reads from the engine, its silence says nothing about it.
            due.append((max(self.last_data_s, self._resumed_s) + limits.idle_s, "idle", limits.idle_s))
        return min(due) if due else None

    def _arm(self) -> None:
        """The timer looks first after the shortest limit: an idle limit may begin at any moment."""
        first_s = self._limits.shortest_s
        if first_s is not None:
            self._timer = self._loop.call_later(first_s - (self._sent_s - self._began_s), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        deadline = self._deadline()
        now = _now()
        if deadline is None or deadline[0] > now + 0.001:
            step = self._limits.shortest_s or 0.0
            due = min(now + step, deadline[0]) if deadline else now + step
            self._timer = self._loop.call_later(due - now, self._on_timer)
            return
        _, phase, limit_s = deadline
        self._connection.abort()
        self.fail(EngineTimeout(f"no answer within {phase} timeout of {limit_s:g} s", phase=phase, limit_s=limit_s))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Connection(asyncio.Protocol):
    """Carries one exchange at a time; `on_idle(connection)` is called when it could carry the next."""

    __slots__ = (
        "_decoder",
        "_exchange",
        "_loop",
        "_on_idle",
        "_outbox",
        "_splice",
        "_transport",
        "closed",
        "paused",
        "served",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, outbox: Outbox, on_idle: Callable[[Connection], None]) -> None:
        self._loop = loop
        self._outbox = outbox
        self._on_idle = on_idle
        self._decoder = ResponseDecoder()
        self._exchange: Exchange | None = None
        self._splice: Callable[[bytes], bool] | None = None
        """Who takes the next read if it is one whole chunk; None unless the next byte begins one."""
        self._transport: asyncio.Transport | None = None
        self.paused = False
        self.closed = False
        self.served = 0

    def __repr__(self) -> str:
        state = "closed" if self.closed else "busy" if self._exchange else "idle"
        return f"<Connection {state} served={self.served}>"

    def start(self, request: bytes, limits: Timeouts, began_s: float) -> Exchange:
        """Write a whole request; the exchange follows its answer."""
        exchange = self._exchange = Exchange(self, limits, self._loop, began_s)
        self._decoder.start(exchange)
        self.served += 1
        assert self._transport is not None
        self._outbox.send(self._transport, request)
        return exchange

    @property
    def answered(self) -> bool:
        """Whether any byte of the current answer has arrived."""
        return self._decoder.started

    def exchange_complete(self) -> None:
        self._exchange = None
        if self.paused:
            self.resume_reading()
        if self._decoder.keep_alive and not self.closed:
            self._on_idle(self)
        else:
            self.close()

    def pause_reading(self) -> None:
        if self._transport is not None and not self.paused and not self.closed:
            self.paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and self.paused and not self.closed:
            self.paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        self.closed = True
        self._exchange = None
        self._splice = None
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._outbox.close(self._transport)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        splice = self._splice
        if splice is not None:
            end = data.find(b"\r\n", 0, 8)
            if CHUNK_SIZES.get(data[:end]) == len(data) - end - 4 and splice(data):
                self._exchange.last_data_s = _now()  # type: ignore[union-attr]
                return
        self._decode(data)

    def _decode(self, data: bytes) -> None:
        try:
            self._decoder.feed(data)
        except EngineProtocolError as error:
            exchange = self._exchange
            self.abort()
            if exchange is not None:
                exchange.fail(error.with_traceback(None))
        else:
            exchange = self._exchange
            self._splice = exchange.splice if exchange is not None and self._decoder.at_chunk else None

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._break_off(exchange, exc)
        # Cycles, which would wait for the collector.
        self._transport = None
        self._decoder.forget()

    def _break_off(self, exchange: Exchange, cause: Exception | None) -> None:
        if cause is not None:
            exchange.fail(EngineDied(f"the connection to the engine broke: {cause}"))
            return
        try:
            self._decoder.eof()
        except EngineDied as error:
            exchange.fail(error.with_traceback(None))
