"""Any replica, with equal probability."""

from __future__ import annotations

import random
from collections.abc import Sequence

from router.types import Features, ReplicaView


class Uniform:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, features: Features, replicas: Sequence[ReplicaView]) -> int:
        return self._rng.randrange(len(replicas))
