"""The rule of LMetric: prefill tokens times batch size.

Zhang et al., "LMetric: Simple is Better - Multiplication May Be All You Need for LLM Request Scheduling",
arXiv 2603.15202, 2026.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from router.load import ReplicaLoad
from router.policies.ties import lowest, requests_at
from router.types import Features


class LMetric:
    """cost = (prefill tokens there + those of the prompt that it does not hold) * (requests in flight + 1).

    Where the products are equal, as for a prompt that all hold in full, the fewest requests in flight decide.
    """

    needs_prefix = True

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, features: Features, replicas: Sequence[ReplicaLoad]) -> int:
        if len(replicas) == 1:
            return 0
        costs: list[tuple[float, ...]] = []
        for i, replica in enumerate(replicas):
            prefill, batch = _factors(features, i, replica)
            costs.append((prefill * batch, batch))
        return lowest(costs, self._rng)

    def terms(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[Mapping[str, float]]:
        told: list[Mapping[str, float]] = []
        for i, replica in enumerate(replicas):
            prefill, batch = _factors(features, i, replica)
            told.append({"prefill_tokens": prefill, "batch": batch, "cost": prefill * batch})
        return told


def _factors(features: Features, index: int, replica: ReplicaLoad) -> tuple[float, float]:
    ahead = replica.prefill_tokens + replica.others_prefill_tokens
    return ahead + features.prompt_tokens - features.cached_at(index), requests_at(replica) + 1.0
