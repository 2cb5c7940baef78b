"""Concurrent calls that ask the same, joined into one call to the engine.

The first one makes the call; the others get every piece as it comes, from the beginning, or the whole answer in their
own form once it is there. Who hangs up leaves the others alone: the call goes on as long as anybody waits for it. If it
fails before anything was sent, one of those that wait makes it anew, and the others wait for that one.

    landed = await flights.fly(key, Seat(sink, asked), make)

calls `make(fan)` for whoever is to make the call, with a sink that leads to all; for the others it returns how that
ended. A call that nobody joins costs next to nothing more: its pieces go straight through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from gateway.caching.playback import start_events
from gateway.caching.seats import Fan, Landed, Seat
from gateway.errors import InternalError
from gateway.sse import KEEPALIVE

MAX_FLIGHT_BYTES: Final = 8 * 1024 * 1024
"""Kept of one answer for those who come later; who does then makes a call of their own."""
MAX_BYTES: Final = 64 * 1024 * 1024
"""Kept of all answers together."""
MAX_FOLLOWERS = 1000
MAX_FAILED: Final = 3
"""Calls that fail in a row before all that wait are told so."""

Make = Callable[[Fan], Coroutine[Any, Any, Landed]]
"""Makes the call. What it returns is `fan.land(…)`; whatever is to happen even if its own client is gone, such as
paying for it and keeping the answer, it does itself."""


class Budget:
    """Memory for the answers of all flights."""

    def __init__(self, max_bytes: int, max_flight_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_flight_bytes = max_flight_bytes
        self.held_bytes = 0

    def take(self, more_bytes: int, of_flight_bytes: int) -> bool:
        """Whether there is so much more for a flight that has so much already."""
        if of_flight_bytes + more_bytes > self._max_flight_bytes or self.held_bytes + more_bytes > self._max_bytes:
            return False
        self.held_bytes += more_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes


class Flights:
    """Of one worker.

    keepalive_s: who waits for a whole answer in order to get it as a stream gets a comment this often.
    joined, taken_over: calls that went along with another, and that were made anew by one that waited.
    """

    def __init__(
        self, keepalive_s: float, *, max_bytes: int = MAX_BYTES, max_flight_bytes: int = MAX_FLIGHT_BYTES
    ) -> None:
        self._keepalive_s = keepalive_s
        self._budget = Budget(max_bytes, max_flight_bytes)
        self._fans: dict[bytes, Fan] = {}
        self.joined = 0
        self.taken_over = 0

    def __repr__(self) -> str:
        return f"<Flights flying={len(self._fans)} held_bytes={self.held_bytes} joined={self.joined}>"

    @property
    def held_bytes(self) -> int:
        return self._budget.held_bytes

    async def fly(self, key: bytes, seat: Seat, make: Make) -> Landed:
        """Get the answer to the client of `seat`, by whoever makes the call.

        key: what two calls share only if each may have the answer to the other: of one tenant, at least.

        Raises:
            ApiError: the call failed, and its client has had nothing but comments.
        """
        fan = self._fans.get(key)
        if fan is None or not fan.joinable or len(fan.followers) >= MAX_FOLLOWERS:
            return await self._lead(key, self._new(key, seat), make)
        self.joined += 1
        seat.wait()
        fan.board(seat)
        outcome = await self._follow(key, seat)
        if isinstance(outcome, Landed):
            return outcome
        self.taken_over += 1
        return await self._lead(key, outcome, make)

    def _new(self, key: bytes, pilot: Seat, failed: int = 0) -> Fan:
        """Found by those who come, unless another one is."""
        known, fan = self._fans.get(key), Fan(pilot, self._budget, failed)
        if known is None or not known.joinable:
            self._fans[key] = fan
        return fan

    async def _follow(self, key: bytes, seat: Seat) -> Landed | Fan:
        """How it ended; a fan: that this seat is to make the call, by that one."""
        outcome = seat.wait()
        try:
            while not outcome.done():
                waits_whole = seat.asked.stream and seat.fan is not None and not seat.fan.streams
                await asyncio.wait((outcome,), timeout=self._keepalive_s if waits_whole else None)
                if waits_whole and not outcome.done():
                    start_events(seat.sink, seat.asked)
                    seat.sink.write(KEEPALIVE)
            return outcome.result()
        except asyncio.CancelledError:
            if outcome.done() and outcome.exception() is None and isinstance(fan := outcome.result(), Fan):
                self._pass_on(key, fan, fan.followers, fan.failed, None)
                fan.leave(seat)
            raise
        finally:
            if seat.fan is not None and seat.fan.pilot is not seat:
                seat.fan.leave(seat)

    async def _lead(self, key: bytes, fan: Fan, make: Make) -> Landed:
        """Make the call. If its client hangs up while others wait, it goes on for them."""
        seat = fan.pilot
        seat.outcome = None if fan.alone else asyncio.get_running_loop().create_future()
        task = asyncio.current_task()
        fan.on_deserted = task.cancel if task is not None else None
        try:
            try:
                landed = await make(fan)
            except BaseException as error:
                self._failed(key, fan, error)
                raise
            self._pass_on(key, fan, fan.settle(landed), 0, None)
            if fan.hung_up:
                raise asyncio.CancelledError
            if not fan.alone:
                await seat.wait()  # its client has had all of it
            return landed
        finally:
            fan.on_deserted = None
            if seat.fan is fan:
                fan.leave(seat)

    def _failed(self, key: bytes, fan: Fan, error: BaseException) -> None:
        """Nobody who waits for it is left waiting."""
        told = error if isinstance(error, Exception) else InternalError()
        for seat in fan.followers:
            if seat.at:
                seat.fail(told)
        self._pass_on(key, fan, [seat for seat in fan.followers if not seat.at], fan.failed + 1, told)

    def _pass_on(self, key: bytes, fan: Fan, waiting: list[Seat], failed: int, error: Exception | None) -> None:
        """Have the first of those that wait make the call anew, and the others wait for it.

        failed: calls in a row that came to nothing, the last one with `error`.
        """
        if self._fans.get(key) is fan:
            del self._fans[key]
        for seat in waiting:
            fan.leave(seat)
        if error is not None and failed >= MAX_FAILED:
            for seat in waiting:
                seat.fail(error)
        elif waiting:
            pilot, *others = waiting
            anew = self._new(key, pilot, failed)
            for seat in others:
                anew.board(seat)
            pilot.take_over(anew)
