"""Labels that are wanted: a bounded queue, and how much may be spent on them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MINUTE_S = 60.0
DAY_S = 86_400.0
_MINUTES = 1440


class LabelQueue(Generic[T]):
    """Pairs of answers to be compared, the oldest first. When it is full the oldest goes: what is asked now says more
    of what is asked next.

    most: items that it holds. on_drop: is given what had to go.
    """

    def __init__(self, most: int, on_drop: Callable[[T], None] = lambda item: None) -> None:
        self._items: deque[tuple[T, float]] = deque()
        self._most = most
        self._on_drop = on_drop
        self.dropped = 0
        """Items that had to go."""

    def __repr__(self) -> str:
        return f"<LabelQueue {len(self)}/{self._most} dropped={self.dropped}>"

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T, now_s: float) -> None:
        if len(self._items) >= self._most:
            self._drop(self._items.popleft()[0])
        self._items.append((item, now_s))

    def take(self, now_s: float, max_age_s: float) -> tuple[T, float] | None:
        """The oldest item that is not too old, and its age in seconds; None: there is none."""
        while self._items:
            item, since_s = self._items.popleft()
            if now_s - since_s <= max_age_s:
                return item, now_s - since_s
            self._drop(item)
        return None

    def put_back(self, item: T, age_s: float, now_s: float) -> None:
        """For later: it is still the oldest."""
        if len(self._items) < self._most:
            self._items.appendleft((item, now_s - age_s))
        else:
            self._drop(item)

    def _drop(self, item: T) -> None:
        self.dropped += 1
        self._on_drop(item)


class Allowance:
    """What the judge may be asked: so many questions in any minute, for so much money in any day.

    max_usd_per_day: None: no limit.
    """

    def __init__(self, max_per_minute: int, max_usd_per_day: float | None) -> None:
        self._max_per_minute = max_per_minute
        self._max_nano_usd = None if max_usd_per_day is None else round(max_usd_per_day * 1e9)
        self._asked: deque[float] = deque()
        self._minutes: deque[list[int]] = deque()
        """Number of the minute and 10^-9 $ spent in it, the oldest first."""

    def wait_s(self, now_s: float) -> float:
        """How long until a question may be asked; 0.0: now."""
        asked = self._asked
        while asked and asked[0] <= now_s - MINUTE_S:
            asked.popleft()
        if self._max_nano_usd is not None and self.spent_nano_usd(now_s) >= self._max_nano_usd:
            return MINUTE_S
        return asked[0] + MINUTE_S - now_s if len(asked) >= self._max_per_minute else 0.0

    def ask(self, now_s: float) -> None:
        """One is asked."""
        self._asked.append(now_s)

    def spend(self, nano_usd: int, now_s: float) -> None:
        """What it cost."""
        minute = int(now_s // MINUTE_S)
        if not self._minutes or self._minutes[-1][0] != minute:
            self._minutes.append([minute, 0])
        self._minutes[-1][1] += nano_usd

    def spent_nano_usd(self, now_s: float) -> int:
        """In the last day, to the minute."""
        oldest = int(now_s // MINUTE_S) - _MINUTES
        while self._minutes and self._minutes[0][0] < oldest:
            self._minutes.popleft()
        return sum(spent for _, spent in self._minutes)
