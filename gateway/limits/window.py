"""What was leased of one meter in the time that its limit is for. Pure: time is passed in, in seconds that only grow.

A sliding window is counted in slots of span/256. What was leased in slot s may be spent until slot s+1 ends, and counts
until slot s+257 has ended, which is one span later: so that no span of time whatever holds more than the limit.
"""

from __future__ import annotations

import math
from collections import deque
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from gateway.limits.seam import SLOTS, Span

DAY_S = 86_400.0
SPAN_S = {Span.MINUTE: 60.0, Span.DAY: DAY_S}
"""Of those that slide."""
CALENDAR = frozenset({Span.UTC_DAY, Span.UTC_MONTH})
"""Those that go by Unix time."""
COUNTED_SLOTS = SLOTS + 2
"""A lease counts in its own slot and in so many less one after it."""
CALENDAR_LEASE_S = 60.0
"""How long units of a calendar window may lie unspent; never past its end."""
HELD_S = 3.0
"""What is in flight counts for so long after its holder was last heard of."""
ASK_AGAIN_S = 0.05
"""Nobody knows when something in flight ends."""


class Lease(NamedTuple):
    """`Grant`, but times count from now."""

    amount: int
    slot: int
    spend_in_s: float
    left: int
    resets_in_s: float


class Window(Protocol):
    def take(self, least: int, most: int, limit: int, now_s: float) -> Lease:
        """Lease at least `least` units or none, at most `most`."""
        ...

    def change(self, slot: int, units: int, now_s: float) -> None:
        """Correct what was leased in a slot, if it still counts; what comes back is at most what was leased there."""
        ...

    def is_idle(self, now_s: float) -> bool:
        """Whether nothing counts any more."""
        ...


class SlidingWindow:
    def __init__(self, span_s: float) -> None:
        self._slot_s = span_s / SLOTS
        self._used: dict[int, int] = {}
        self._order: deque[int] = deque()
        self._total = 0

    def __repr__(self) -> str:
        return f"<SlidingWindow {self._total} in {len(self._used)} slots of {self._slot_s:g} s>"

    def take(self, least: int, most: int, limit: int, now_s: float) -> Lease:
        slot = self._advance(now_s)
        amount = granted(least, most, limit - self._total)
        if amount:
            self._add(slot, amount)
            resets_s = (slot + COUNTED_SLOTS) * self._slot_s
        else:
            resets_s = self._room_at_s(least, limit)
        spend_s = (slot + 2) * self._slot_s
        return Lease(amount, slot, spend_s - now_s, max(0, limit - self._total), max(0.0, resets_s - now_s))

    def change(self, slot: int, units: int, now_s: float) -> None:
        if slot <= self._advance(now_s) - COUNTED_SLOTS:
            return
        if units := max(units, -self._used.get(slot, 0)):
            self._add(slot, units)

    def is_idle(self, now_s: float) -> bool:
        self._advance(now_s)
        return not self._used

    def _advance(self, now_s: float) -> int:
        """Forget what counts no more. Returns the slot of now."""
        slot = math.floor(now_s / self._slot_s)
        while self._order and self._order[0] <= slot - COUNTED_SLOTS:
            self._total -= self._used.pop(self._order.popleft())
        return slot

    def _add(self, slot: int, units: int) -> None:
        if slot not in self._used:
            self._used[slot] = 0
            self._order.append(slot)
            if len(self._order) > 1 and self._order[-2] > slot:  # a correction of a slot in which nothing was leased
                self._order = deque(sorted(self._order))
        self._used[slot] += units
        self._total += units

    def _room_at_s(self, least: int, limit: int) -> float:
        """When `least` units will be free if none comes back before."""
        excess = self._total + least - limit
        last = 0
        for last in self._order:
            excess -= self._used[last]
            if excess <= 0:
                break
        return (last + COUNTED_SLOTS) * self._slot_s if self._order else 0.0


class CalendarWindow:
    """Goes by Unix time, and is right if that steps back a little: the period before the last one is kept."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._used: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<CalendarWindow {self._span.value} {self._used}>"

    def take(self, least: int, most: int, limit: int, now_s: float) -> Lease:
        slot, ends_s = period(self._span, now_s)
        self._forget(slot)
        used = self._used.get(slot, 0)
        amount = granted(least, most, limit - used)
        if amount:
            self._used[slot] = used = used + amount
        rest_s = ends_s - now_s
        return Lease(amount, slot, min(rest_s, CALENDAR_LEASE_S), max(0, limit - used), rest_s)

    def change(self, slot: int, units: int, now_s: float) -> None:
        if slot >= period(self._span, now_s)[0] - 1:
            self._used[slot] = max(0, self._used.get(slot, 0) + units)

    def is_idle(self, now_s: float) -> bool:
        self._forget(period(self._span, now_s)[0])
        return not any(self._used.values())

    def _forget(self, slot: int) -> None:
        for old in [old for old in self._used if old < slot - 1]:
            del self._used[old]


class InFlight:
    """What each holder has in flight."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, float]] = {}

    def __repr__(self) -> str:
        return f"<InFlight { {holder: count for holder, (count, _) in self._held.items()} }>"

    def take(self, holder: str, least: int, most: int, limit: int, now_s: float) -> Lease:
        self._forget(now_s)
        total = sum(count for count, _ in self._held.values())
        amount = granted(least, most, limit - total)
        if amount:
            self.hold(holder, self._count(holder) + amount, now_s)
        left = max(0, limit - total - amount)
        return Lease(amount, 0, math.inf, left, 0.0 if amount else ASK_AGAIN_S)

    def change(self, holder: str, units: int, now_s: float) -> None:
        self._forget(now_s)
        self.hold(holder, self._count(holder) + units, now_s)

    def hold(self, holder: str, count: int, now_s: float) -> None:
        """It has so many in flight."""
        if count > 0:
            self._held[holder] = (count, now_s + HELD_S)
        else:
            self._held.pop(holder, None)

    def is_idle(self, now_s: float) -> bool:
        self._forget(now_s)
        return not self._held

    def _count(self, holder: str) -> int:
        return self._held[holder][0] if holder in self._held else 0

    def _forget(self, now_s: float) -> None:
        for holder in [holder for holder, (_, until_s) in self._held.items() if until_s <= now_s]:
            del self._held[holder]


def granted(least: int, most: int, left: int) -> int:
    """At least `least` units of what is left or none, at most `most`."""
    amount = min(most, left)
    return amount if amount >= max(1, least) else 0


def period(span: Span, unix_s: float) -> tuple[int, float]:
    """The number of a calendar period, and when it ends."""
    if span is Span.UTC_DAY:
        day = math.floor(unix_s / DAY_S)
        return day, (day + 1) * DAY_S
    now = datetime.fromtimestamp(unix_s, UTC)
    month = now.year * 12 + now.month - 1
    return month, datetime((month + 1) // 12, (month + 1) % 12 + 1, 1, tzinfo=UTC).timestamp()
