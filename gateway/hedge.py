"""A second attempt while the first is slow: when it begins, and the race between the two."""

from __future__ import annotations

import asyncio
from collections import deque

from engines.base import EngineError, EngineResponse, Receiver
from gateway.shares import Share

WINDOW = 256
"""Answers from which the 95th percentile is learned."""
LEAST_SAMPLES = 20
"""Below that nothing is known, and nothing is hedged."""
_SORT_EVERY = 16


class Delays:
    """How long answers of late took to begin, in seconds."""

    __slots__ = ("_last", "_p95_s", "_since")

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=WINDOW)
        self._p95_s: float | None = None
        self._since = 0

    def add(self, took_s: float) -> None:
        self._last.append(took_s)
        self._since += 1
        if len(self._last) >= LEAST_SAMPLES and (self._p95_s is None or self._since >= _SORT_EVERY):
            self._since = 0
            ordered = sorted(self._last)
            self._p95_s = ordered[int(0.95 * (len(ordered) - 1))]

    @property
    def p95_s(self) -> float | None:
        """None: too little is known."""
        return self._p95_s


class Hedging:
    """One deployment's. Streams and whole answers begin at different times, so they are learned apart.

    after_s: the delay before the second attempt; None: the 95th percentile of what was learned.
    """

    __slots__ = ("_after_s", "_streams", "_wholes", "share")

    def __init__(self, after_s: float | None, max_share: float) -> None:
        self._after_s = after_s
        self._streams = Delays()
        self._wholes = Delays()
        self.share = Share(max_share)

    def delay_s(self, *, stream: bool) -> float | None:
        """None: too little is known."""
        if self._after_s is not None:
            return self._after_s
        return (self._streams if stream else self._wholes).p95_s

    def learn(self, took_s: float, *, stream: bool) -> None:
        (self._streams if stream else self._wholes).add(took_s)


class Gate:
    """A stream that is not relayed before its first byte is there. Implements `EngineResponse`, and `Receiver`."""

    def __init__(self, response: EngineResponse) -> None:
        self._response = response
        self._receiver: Receiver | None = None
        self._early: list[tuple[bytes, bytes | None]] = []
        self._ended = False
        self._error: EngineError | None = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = response.status
        self.headers = response.headers

    async def opened(self) -> None:
        """Returns when the first byte, or the end, is there.

        Raises:
            EngineError: the answer broke off before it.
        """
        self._response.subscribe(self)
        await self._opened
        if self._error is not None and not self._early:
            raise self._error

    @property
    def last_data_s(self) -> float:
        return self._response.last_data_s

    async def read(self, limit_bytes: int) -> bytes:
        raise NotImplementedError  # only event streams are gated, and nobody reads those whole

    def subscribe(self, receiver: Receiver) -> None:
        self._receiver = receiver
        early, self._early = self._early, []
        for payload, framed in early:
            receiver.on_data(payload, framed)
            if self._receiver is None:
                return
        if self._error is not None:
            receiver.on_error(self._error)
        elif self._ended:
            receiver.on_end()

    def pause(self) -> None:
        self._response.pause()

    def resume(self) -> None:
        self._response.resume()

    def abort(self) -> None:
        self._receiver = None
        self._response.abort()

    # Receiver

    def splice(self, chunk: bytes) -> bool:
        return self._receiver is not None and self._receiver.splice(chunk)

    def on_data(self, payload: bytes, framed: bytes | None) -> None:
        if self._receiver is not None:
            self._receiver.on_data(payload, framed)
            return
        self._early.append((payload, framed))
        self._open()

    def on_end(self) -> None:
        self._ended = True
        if self._receiver is not None:
            self._receiver.on_end()
        self._open()

    def on_error(self, error: EngineError) -> None:
        self._error = error
        if self._receiver is not None:
            self._receiver.on_error(error)
        self._open()

    def _open(self) -> None:
        if not self._opened.done():
            self._opened.set_result(None)
