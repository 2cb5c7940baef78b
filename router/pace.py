"""How fast a queue moves."""

from __future__ import annotations

import math

PACE_S = 10.0
"""Time constant in which the past is forgotten. Only time in which somebody waited counts."""


class Pace:
    """Entries per second that left a queue to be served, while it was not empty."""

    __slots__ = ("_left", "_mark_s", "_seconds")

    def __init__(self) -> None:
        self._left = 0.0
        self._seconds = 0.0
        self._mark_s = 0.0

    def __repr__(self) -> str:
        return f"<Pace {self._left:.1f} in {self._seconds:.1f} s>"

    def resume(self, now_s: float) -> None:
        """The queue is no longer empty."""
        self._mark_s = now_s

    def left(self, now_s: float, entries: int = 1) -> None:
        """So many left it to be served."""
        kept = math.exp(min(0.0, self._mark_s - now_s) / PACE_S)
        self._left = self._left * kept + entries
        self._seconds = self._seconds * kept + PACE_S * (1.0 - kept)
        self._mark_s = now_s

    def per_s(self, now_s: float) -> float:
        """The rate, at `now_s`, while the queue is not empty; 0.0 while it is unknown.

        While none has left it is taken that one is about to.
        """
        self.left(now_s, 0)
        return (self._left or 1.0) / self._seconds if self._seconds > 0.0 else 0.0
