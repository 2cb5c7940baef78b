"""Pauses between attempts."""

from __future__ import annotations

import random


class Backoff:
    """Pauses that double, give or take a quarter, so that many who failed together do not come back together."""

    def __init__(self, rng: random.Random, first_s: float = 0.5, max_s: float = 15.0) -> None:
        self._rng = rng
        self._first_s = self._next_s = first_s
        self._max_s = max_s

    def pause_s(self) -> float:
        pause_s, self._next_s = self._next_s, min(self._max_s, self._next_s * 2)
        return pause_s * (0.75 + self._rng.random() / 2)

    def reset(self) -> None:
        self._next_s = self._first_s
