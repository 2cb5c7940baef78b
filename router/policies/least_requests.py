"""The replica with the fewest requests in flight; among equals the one that served least, then at random."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from router.load import ReplicaLoad
from router.policies.ties import lowest, requests_at
from router.types import Features


class LeastRequests:
    needs_prefix = False

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, features: Features, replicas: Sequence[ReplicaLoad]) -> int:
        if len(replicas) == 1:
            return 0
        return lowest([(requests_at(r), r.served) for r in replicas], self._rng)

    def terms(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[Mapping[str, float]]:
        return [{"in_flight": requests_at(r), "served": r.served, "cost": requests_at(r)} for r in replicas]
