"""The rule of llm-d's router: a weighted sum of three scores, the highest wins.

pkg/epp/framework/plugins/scheduling/scorer/{queuedepth,kvcacheutilization,prefix} (llm-d-router ebab687), with the
weights of its charts, and the max-score picker.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from router.load import ReplicaLoad
from router.policies.ties import lowest
from router.types import Features

QUEUE_WEIGHT = 2.0
KV_WEIGHT = 2.0
PREFIX_WEIGHT = 3.0


class WeightedScorers:
    """Each term is a weight times what its score lacks of 1; their sum is the cost.

    queue:  waiting requests, from 1 for the fewest among the candidates to 0 for the most; all equal: 1.
            llm-d reads the engine's queue; here those count that have no first token.
    kv:     1 less the share of the KV cache that is spoken for.
    prefix: share of the prompt that the replica holds.
    """

    needs_prefix = True

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, features: Features, replicas: Sequence[ReplicaLoad]) -> int:
        if len(replicas) == 1:
            return 0
        return lowest([sum(lacks) for lacks in _lacks(features, replicas)], self._rng)

    def terms(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[Mapping[str, float]]:
        return [
            {"queue": queue, "kv": kv, "prefix": prefix, "cost": queue + kv + prefix}
            for queue, kv, prefix in _lacks(features, replicas)
        ]


def _lacks(features: Features, replicas: Sequence[ReplicaLoad]) -> list[tuple[float, float, float]]:
    waiting = [r.waiting for r in replicas]
    fewest = min(waiting)
    span = (max(waiting) - fewest) or 1
    prompt_tokens = features.prompt_tokens or 1
    return [
        (
            QUEUE_WEIGHT * (replica.waiting - fewest) / span,
            KV_WEIGHT * min(1.0, replica.kv_usage()),
            PREFIX_WEIGHT * (1.0 - features.cached_at(i) / prompt_tokens),
        )
        for i, replica in enumerate(replicas)
    ]
