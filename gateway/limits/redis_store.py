"""Counts in Redis or Valkey, for all workers of all gateways that share it.

Every meter is one key, so that a cluster may keep each wherever it likes; what is asked of several meters takes one
round trip in any case. If the server loses its data, or a replica without them takes over, counts begin anew: what
was leased before is counted no more, but it is not given back to the new counts either.
"""

from __future__ import annotations

import contextlib
import math
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import NamedTuple, TypeVar

from gateway.clock import Clock
from gateway.config import Redis as Options
from gateway.limits.redis_link import Call, RedisLink, Refused
from gateway.limits.seam import Change, Grant, Meter, Span, StoreLost, Want

MAX_KEPT = 20_000
"""Corrections that wait for a server that is away."""
_WINDOW_NUMBERS = 1 << 16
_US = 1_000_000
T = TypeVar("T")


class _Batch(NamedTuple):
    """Corrections that are carried out once, however often they are sent."""

    calls: list[Call]
    changes: int


class RedisStore:
    """Implements `Store`, as one holder of what is in flight.

    Corrections are carried out exactly once: what the server did not confirm is sent again, with the number that its
    receipt goes by. So `change` raises StoreLost only when more than `MAX_KEPT` of them wait.

    now_us: the time in place of the server's own, for tests.

    Raises:
        ValueError: the URL is not what redis-py takes.
    """

    def __init__(self, options: Options, clock: Clock, now_us: Callable[[], int] | None = None) -> None:
        self._link = RedisLink(options, script())
        self._clock = clock
        self._now_us = now_us
        self._prefix = options.prefix
        self._apart = options.cluster
        self._me = secrets.token_hex(8)
        self._batches = 0
        self._unsettled: deque[_Batch] = deque()
        self._moving: Counter[str] = Counter()
        self._held: dict[str, Meter] = {}
        """Of which something may be in flight."""

    def __repr__(self) -> str:
        return f"<RedisStore {self._link!r} unsettled={sum(batch.changes for batch in self._unsettled)}>"

    async def take(self, wants: Sequence[Want]) -> list[Grant]:
        if not wants:
            return []
        began_s = self._clock.monotonic()  # before the server's clock is read: so that no lease seems to last longer
        with self._on_their_way(want.meter for want in wants):
            answers = await self._link.ask([self._take_call(some) for some in self._parts(wants)])
        numbers = [int(number) for answer in answers for number in answer.split()]
        return [_grant(numbers[start : start + 5], began_s) for start in range(0, len(numbers), 5)]

    async def change(self, changes: Sequence[Change]) -> None:
        flights = [change for change in changes if change.meter.span is Span.NOW]
        self._keep([change for change in changes if change.meter.span is not Span.NOW])
        with self._on_their_way(change.meter for change in flights), contextlib.suppress(StoreLost):
            # What is in flight need not be sent again: the next beat says how much it is.
            await self._settle([self._change_call(some, None) for some in self._parts(flights)])

    async def beat(self, held: Mapping[Meter, int]) -> None:
        moving = {key: meter for key, meter in self._held.items() if self._moving[key]}
        self._held = {meter.key: meter for meter in held} | moving
        await self._settle([self._beat_call(some) for some in self._parts(list(held.items()))])

    async def aclose(self) -> None:
        with contextlib.suppress(StoreLost):
            await self.beat(dict.fromkeys(self._held.values(), 0))
        await self._link.aclose()

    # Corrections

    def _keep(self, changes: Sequence[Change]) -> None:
        if not changes:
            return
        waiting = sum(batch.changes for batch in self._unsettled)
        if waiting + len(changes) > MAX_KEPT:
            raise StoreLost(f"redis: {waiting} corrections of limits wait for it already")
        self._batches += 1
        calls = [self._change_call(some, self._batches) for some in self._parts(changes)]
        self._unsettled.append(_Batch(calls, len(changes)))

    async def _settle(self, more: Sequence[Call]) -> None:
        """Send what is not confirmed yet, oldest first, and then `more`."""
        sent = list(self._unsettled)
        calls = [call for batch in sent for call in batch.calls]
        if not calls and not more:
            return
        try:
            await self._link.ask([*calls, *more])
        except Refused:  # all others were carried out, and this one never will be
            self._forget(sent)
            raise
        self._forget(sent)

    def _forget(self, sent: Sequence[_Batch]) -> None:
        for batch in sent:
            if self._unsettled and self._unsettled[0] is batch:
                self._unsettled.popleft()

    # What is on its way

    @contextmanager
    def _on_their_way(self, meters: Iterable[Meter]) -> Iterator[None]:
        """Until the answer is there, what the caller says to hold may be less than he was given."""
        flights = [meter for meter in meters if meter.span is Span.NOW]
        self._held.update((meter.key, meter) for meter in flights)
        self._moving.update(meter.key for meter in flights)
        try:
            yield
        finally:
            for meter in flights:
                self._moving[meter.key] -= 1
                if not self._moving[meter.key]:
                    del self._moving[meter.key]

    # Calls

    def _parts(self, all_of_them: Sequence[T]) -> list[Sequence[T]]:
        """What goes into one run of the script: all, or in a cluster each meter by itself."""
        if self._apart:
            return [[one] for one in all_of_them]
        return [all_of_them] if all_of_them else []

    def _take_call(self, wants: Sequence[Want]) -> Call:
        args = self._first_args("take")
        for (_, limit, span), least, most in wants:
            args += (span.value, limit, least, most)
        return Call([self._key(want.meter) for want in wants], args)

    def _change_call(self, changes: Sequence[Change], batch: int | None) -> Call:
        args = [*self._first_args("change"), batch or 0]
        for (_, _, span), slot, units in changes:
            args += (span.value, slot, units)
        receipt = [] if batch is None else [self._receipt(changes[0].meter)]
        return Call(receipt + [self._key(change.meter) for change in changes], args)

    def _beat_call(self, held: Sequence[tuple[Meter, int]]) -> Call:
        args = self._first_args("beat")
        for meter, units in held:
            args += (units, int(self._moving[meter.key] > 0))
        return Call([self._key(meter) for meter, _ in held], args)

    def _first_args(self, what: str) -> list[str | int]:
        now_us = "" if self._now_us is None else self._now_us()
        return [what, now_us, self._me, secrets.randbelow(_WINDOW_NUMBERS)]

    def _key(self, meter: Meter) -> str:
        return f"{{{self._prefix}:{meter.key}}}"

    def _receipt(self, meter: Meter) -> str:
        return f"{self._key(meter)}:{self._me}" if self._apart else f"{{{self._prefix}}}:changes:{self._me}"


def script() -> str:
    """What runs in the server."""
    return resources.files(__package__).joinpath("meters.lua").read_text(encoding="utf-8")


def _grant(numbers: Sequence[int], began_s: float) -> Grant:
    amount, slot, spend_us, left, resets_us = numbers
    spend_by_s = began_s + spend_us / _US if spend_us >= 0 else math.inf
    return Grant(amount, slot, spend_by_s, left, resets_us / _US)
