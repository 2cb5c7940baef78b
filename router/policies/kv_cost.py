"""The rule of NVIDIA Dynamo's KV router: the fewest blocks to prefill and to decode over.

lib/kv-router/src/scheduling/selector/default.rs (Dynamo 1.6.1), with its defaults: prefill_load_scale 1, overlap credit
1, temperature 0, which is the lowest cost, at random among equals.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from router.load import ReplicaLoad
from router.policies.ties import lowest
from router.types import Features

PREFILL_LOAD_SCALE = 1.0
BLOCK_TOKENS = 16
"""Only gives the figures the unit that Dynamo's have; it changes no choice."""


class KvCost:
    """cost = prefill_load_scale * max(prefill there + prompt - overlap, 0) + blocks held while decoding.

    Dynamo counts a block that several requests share once, and by default no answers; the books here hold the prompts
    and the expected answers of the requests in flight, each by itself.
    """

    needs_prefix = True

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, features: Features, replicas: Sequence[ReplicaLoad]) -> int:
        if len(replicas) == 1:
            return 0
        return lowest([sum(_blocks(features, i, r)) for i, r in enumerate(replicas)], self._rng)

    def terms(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[Mapping[str, float]]:
        told: list[Mapping[str, float]] = []
        for i, replica in enumerate(replicas):
            prefill, decode = _blocks(features, i, replica)
            told.append({"prefill_blocks": prefill, "decode_blocks": decode, "cost": prefill + decode})
        return told


def _blocks(features: Features, index: int, replica: ReplicaLoad) -> tuple[float, float]:
    """Blocks to prefill before this request's first token, and blocks held with it."""
    ahead = replica.prefill_tokens + replica.others_prefill_tokens
    prefill = PREFILL_LOAD_SCALE * max(0.0, ahead + features.prompt_tokens - features.cached_at(index))
    held = replica.context_tokens + replica.others_context_tokens + features.prompt_tokens
    return prefill / BLOCK_TOKENS, held / BLOCK_TOKENS
