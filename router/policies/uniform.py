"""Any replica, with equal probability."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from router.load import ReplicaLoad
from router.types import Features


class Uniform:
    needs_prefix = False

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, features: Features, replicas: Sequence[ReplicaLoad]) -> int:
        return self._rng.randrange(len(replicas))

    def terms(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[Mapping[str, float]]:
        return [{"cost": 0.0} for _ in replicas]
