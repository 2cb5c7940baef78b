"""How many replicas a pool should have. No socket, no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """least, most: replicas. target: requests in flight that one replica is to have.

    idle_s: how long fewer replicas must have been enough before one is taken away.
    """

    least: int = 1
    most: int = 1
    target: float = 8.0
    idle_s: float = 120.0


class Scaler:
    """Up at once, since requests wait; down by one at a time, since a model takes minutes to load again."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._fewer_since_s: float | None = None

    def wanted(self, now_s: float, replicas: int, in_flight: float) -> int:
        """The number of replicas that there should be.

        Args:
            now_s: monotonic seconds.
            replicas: how many there are, starting ones included.
            in_flight: requests running and waiting at all of them.
        """
        bounds = self._bounds
        needed = min(bounds.most, max(bounds.least, math.ceil(in_flight / bounds.target)))
        if needed >= replicas:
            self._fewer_since_s = None
            return needed
        if self._fewer_since_s is None:
            self._fewer_since_s = now_s
        if replicas > bounds.most:
            return bounds.most
        if now_s - self._fewer_since_s < bounds.idle_s:
            return replicas
        self._fewer_since_s = now_s
        return replicas - 1
