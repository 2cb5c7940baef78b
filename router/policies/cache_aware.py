"""The rule of SGLang's router: the best prefix match, unless the replicas are far out of balance.

sgl-model-gateway/src/policies/cache_aware.rs (sglang-router 0.3.2), with the values of its command line, which
vllm-router 0.1.17 shares. Among equal matches SMG's order holds (model_gateway/src/policies/cache_aware.rs, 1.13.0):
fewer requests, then the smaller tree. How large a replica's tree is, the tokens that it was sent of late stand for.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from router.load import ReplicaLoad
from router.policies.ties import lowest, requests_at
from router.types import Features

BALANCE_REQUESTS = 64
BALANCE_RATIO = 1.5
"""Out of balance: more requests apart than the one, and more times the fewest than the other."""
MATCH = 0.3
"""Share of the prompt that a replica must hold more than, to be chosen for it."""


class CacheAware:
    """Out of balance: the fewest in flight. Else a match over 0.3 of the prompt: the longest. Else the fewest again.

    cost: requests in flight, or where a match decides, the tokens that it lacks.
    """

    needs_prefix = True

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, features: Features, replicas: Sequence[ReplicaLoad]) -> int:
        if len(replicas) == 1:
            return 0
        requests = [requests_at(r) for r in replicas]
        recent = [r.recent_tokens(features.now_s) for r in replicas]
        if not _match_decides(features, requests):
            return lowest(list(zip(requests, recent, strict=True)), self._rng)
        missing = [features.prompt_tokens - cached for cached in features.cached]
        return lowest(list(zip(missing, requests, recent, strict=True)), self._rng)

    def terms(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[Mapping[str, float]]:
        requests = [requests_at(r) for r in replicas]
        by_match = _match_decides(features, requests)
        told: list[Mapping[str, float]] = []
        for i, replica in enumerate(replicas):
            missing = features.prompt_tokens - features.cached_at(i)
            told.append(
                {
                    "uncached_tokens": missing,
                    "in_flight": requests[i],
                    "recent_tokens": replica.recent_tokens(features.now_s),
                    "cost": missing if by_match else requests[i],
                }
            )
        return told


def _match_decides(features: Features, requests: Sequence[float]) -> bool:
    most, fewest = max(requests), min(requests)
    if most - fewest > BALANCE_REQUESTS and most > BALANCE_RATIO * fewest:
        return False
    return max(features.cached, default=0) > MATCH * features.prompt_tokens
