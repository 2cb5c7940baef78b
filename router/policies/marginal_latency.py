"""The replica where the request costs the fewest seconds: its own, and those that it takes from the others there."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import repeat

from router.load import ReplicaLoad
from router.types import Features

STALL = 0.5
"""Of the prefill's seconds, how much each request in flight there is held up by."""
BARRIER_S = 0.1
"""Seconds that a KV cache spoken for by half costs; more than it has, no end."""
MOST_USED = 0.98
"""Of the KV cache: at most so much enters the barrier, so that full caches can be compared."""
TIE = 0.02
"""Costs that lie within this share of the lowest are equal: whoever has the least to do, now and of late, is taken."""
TIE_S = 0.001
IDLE_HALF_S = 15.0
"""An idle replica's disadvantage halves in this time: what was learned of it grows old, its cache is there to be filled
(R01, R02)."""


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
        costs = self._costs(features, replicas)
        limit = min(costs) * (1.0 + TIE) + TIE_S
        ties = [i for i, cost in enumerate(costs) if cost <= limit]
        if len(ties) == 1:
            return ties[0]
        now_s = features.now_s
        quiet = [(replicas[i].in_flight, replicas[i].recent_tokens(now_s), replicas[i].served) for i in ties]
        least = min(quiet)
        return self._rng.choice([i for i, one in zip(ties, quiet, strict=True) if one == least])

    def terms(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[Mapping[str, float]]:
        told: list[Mapping[str, float]] = []
        costs = self._costs(features, replicas)
        for i, replica in enumerate(replicas):
            prefill_s = replica.speed.prefill_s(features.prompt_tokens, features.cached_at(i))
            usage = min(MOST_USED, replica.kv_usage(features.prompt_tokens + features.output_tokens))
            told.append(
                {
                    "backlog_s": replica.backlog_s(features.now_s),
                    "prefill_s": prefill_s,
                    "stall_s": STALL * (replica.in_flight + replica.others_in_flight) * prefill_s,
                    "fixed_s": replica.speed.fixed_s,
                    "kv_s": BARRIER_S * usage / (1.0 - usage),
                    "cost": costs[i],
                }
            )
        return told

    def _costs(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[float]:
        """Few calls: it runs over every replica for every request."""
        prompt_tokens, now_s = features.prompt_tokens, features.now_s
        context_tokens = prompt_tokens + features.output_tokens
        costs = []
        for replica, cached_tokens in zip(replicas, features.cached or repeat(0), strict=False):
            speed = replica.speed
            stalled = 1.0 + STALL * (replica.in_flight + replica.others_in_flight)
            cost_s = speed.prefill_s(prompt_tokens, cached_tokens) * stalled + speed.fixed_s
            usage = replica.kv_usage(context_tokens)
            if usage > MOST_USED:
                usage = MOST_USED
            costs.append(cost_s + replica.backlog_s(now_s) + BARRIER_S * usage / (1.0 - usage))
        best = min(costs)
        for i, replica in enumerate(replicas):
            if not replica.in_flight and costs[i] > best:
                idle_s = now_s - replica.last_sent_s
                costs[i] = best + (costs[i] - best) * 0.5 ** (idle_s / IDLE_HALF_S)
        return costs
