"""The replica with the fewest requests in flight; among equals the one that served least, then at random."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from router.load import ReplicaLoad
from router.types import Features


class LeastRequests:
    needs_prefix = False

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, features: Features, replicas: Sequence[ReplicaLoad]) -> int:
        if len(replicas) == 1:
            return 0
        best = min((r.in_flight, r.served) for r in replicas)
        ties = [i for i, r in enumerate(replicas) if (r.in_flight, r.served) == best]
        return ties[0] if len(ties) == 1 else self._rng.choice(ties)

    def terms(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[Mapping[str, float]]:
        return [{"in_flight": r.in_flight, "served": r.served, "cost": r.in_flight} for r in replicas]
