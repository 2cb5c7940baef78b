"""Of two replicas drawn at random, the one with fewer requests in flight.

Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from router.load import ReplicaLoad
from router.policies.ties import requests_at
from router.types import Features


class PowerOfTwo:
    needs_prefix = False

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, features: Features, replicas: Sequence[ReplicaLoad]) -> int:
        if len(replicas) == 1:
            return 0
        first = self._rng.randrange(len(replicas))
        second = self._rng.randrange(len(replicas) - 1)
        if second >= first:
            second += 1
        return first if requests_at(replicas[first]) <= requests_at(replicas[second]) else second

    def terms(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[Mapping[str, float]]:
        """The cost decides between the two that are drawn, not among all."""
        return [{"in_flight": requests_at(r), "cost": requests_at(r)} for r in replicas]
