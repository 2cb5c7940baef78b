"""The replica where the request costs the fewest seconds: its own, and those that it takes from the others there."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from router.load import ReplicaLoad
from router.types import Features

STALL = 0.5
"""Of the prefill's seconds, how much each request in flight there is held up by."""
BARRIER_S = 0.1
"""Seconds that a KV cache spoken for by half costs; more than it has, no end."""
MOST_USED = 0.98
"""Of the KV cache: at most so much enters the barrier, so that full caches can be compared."""
TIE = 0.02
"""Costs that lie within this share of the lowest are equal: the replica with the least work of late gets it."""
TIE_S = 0.001


class MarginalLatency:
    """cost = backlog + w * (1 + a * in flight) + fixed time + b * k / (1 - k), in seconds.

    backlog: prefill that is ahead of it. w: prefill of the tokens that this replica does not hold, at its own speed.
    k: share of its KV cache that is spoken for, this request included.
    """

    needs_prefix = True

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, features: Features, replicas: Sequence[ReplicaLoad]) -> int:
        if len(replicas) == 1:
            return 0
        costs = [self._cost(features, i, r) for i, r in enumerate(replicas)]
        limit = min(costs) * (1.0 + TIE) + TIE_S
        ties = [i for i, cost in enumerate(costs) if cost <= limit]
        if len(ties) == 1:
            return ties[0]
        now_s = features.now_s
        recent = [replicas[i].recent_tokens(now_s) for i in ties]
        least = min(recent)
        ties = [i for i, tokens in zip(ties, recent, strict=True) if tokens <= least * (1.0 + TIE)]
        served = min(replicas[i].served for i in ties)
        return self._rng.choice([i for i in ties if replicas[i].served == served])

    def terms(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[Mapping[str, float]]:
        told: list[Mapping[str, float]] = []
        for i, replica in enumerate(replicas):
            prefill_s = (features.prompt_tokens - features.cached_at(i)) * replica.speed.s_per_token
            told.append(
                {
                    "backlog_s": replica.backlog_s(features.now_s),
                    "prefill_s": prefill_s,
                    "stall_s": STALL * (replica.in_flight + replica.others_in_flight) * prefill_s,
                    "fixed_s": replica.speed.fixed_s,
                    "kv_s": _barrier_s(replica, features),
                    "cost": self._cost(features, i, replica),
                }
            )
        return told

    def _cost(self, features: Features, index: int, replica: ReplicaLoad) -> float:
        speed = replica.speed
        prefill_s = (features.prompt_tokens - features.cached_at(index)) * speed.s_per_token
        stalled = STALL * (replica.in_flight + replica.others_in_flight)
        cost_s = replica.backlog_s(features.now_s) + prefill_s * (1.0 + stalled) + speed.fixed_s
        return cost_s + _barrier_s(replica, features)


def _barrier_s(replica: ReplicaLoad, features: Features) -> float:
    usage = min(MOST_USED, replica.kv_usage(features.prompt_tokens + features.output_tokens))
    return BARRIER_S * usage / (1.0 - usage)
