"""A circuit breaker: keeps traffic from a replica that fails, and lets one request at a time find out if it is back."""

from __future__ import annotations

import enum


class BreakerState(enum.StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


WEIGHT = 0.1
"""Of the latest request in the failing share: about the last twenty count."""


class Breaker:
    """Pure: every method takes the present as monotonic seconds.

    threshold: consecutive failures that open it.
    most_failing: share of failures that opens it, though answers lie between them: an engine whose streams all break
        while its whole answers succeed is broken.
    first_wait_s, max_wait_s: how long it stays open; doubled after each failed probe.
    """

    __slots__ = (
        "_failing",
        "_failures",
        "_first_wait_s",
        "_max_wait_s",
        "_most_failing",
        "_open_until_s",
        "_probing",
        "_threshold",
        "_wait_s",
    )

    def __init__(
        self, threshold: int = 3, first_wait_s: float = 0.5, max_wait_s: float = 15.0, most_failing: float = 0.5
    ) -> None:
        self._threshold = threshold
        self._most_failing = most_failing
        self._failing = 0.0
        self._first_wait_s = first_wait_s
        self._max_wait_s = max_wait_s
        self._failures = 0
        self._wait_s = first_wait_s
        self._open_until_s = 0.0
        self._probing = False

    def __repr__(self) -> str:
        return f"<Breaker failures={self._failures} probing={self._probing} open_until_s={self._open_until_s:.3f}>"

    def state(self, now_s: float) -> BreakerState:
        if self._failures < self._threshold:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_s < self._open_until_s else BreakerState.HALF_OPEN

    def allows(self, now_s: float) -> bool:
        """Whether a request may go to the replica now."""
        return self._failures < self._threshold or (now_s >= self._open_until_s and not self._probing)

    def retry_after_s(self, now_s: float) -> float:
        """How long until a request may go to the replica."""
        return 0.0 if self.allows(now_s) else max(0.0, self._open_until_s - now_s)

    def sent(self) -> bool:
        """A request goes to the replica. True: it is the probe, and is to be told so when it ends."""
        if self._failures < self._threshold:
            return False
        self._probing = True
        return True

    def answered(self, *, probe: bool) -> None:
        """An answer began. It may be long: the next probe need not wait for its end."""
        if probe:
            self._probing = False

    def succeeded(self) -> None:
        # Closed by a probe, it begins anew; else the share only falls.
        self._failing = 0.0 if self._failures >= self._threshold else self._failing * (1.0 - WEIGHT)
        self._failures = 0
        self._probing = False
        self._wait_s = self._first_wait_s

    def failed(self, now_s: float, *, probe: bool) -> None:
        if probe:
            self._wait_s = min(self._wait_s * 2, self._max_wait_s)
            self._probing = False
        self._failures += 1
        self._failing += (1.0 - self._failing) * WEIGHT
        if self._failing > self._most_failing:
            self._failures = max(self._failures, self._threshold)
        if self._failures >= self._threshold:
            self._open_until_s = now_s + self._wait_s

    def seems_well(self, now_s: float) -> None:
        """Something else than a request says that the replica is back: a request may find out now."""
        self._open_until_s = min(self._open_until_s, now_s)

    def abandoned(self, *, probe: bool) -> None:
        """The request said nothing about the replica: it was cancelled, or the replica was full."""
        if probe:
            self._probing = False
