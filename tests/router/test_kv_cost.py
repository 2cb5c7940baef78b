"""What only this policy promises: Dynamo's rule."""

from __future__ import annotations

import random

from router.policies.kv_cost import KvCost
from router.types import Features
from tests.router.loads import replica

FEATURES = Features(1600, 160.0, [1280, 0, 0])
LOADS = [
    replica("a", prefill_tokens=480, context_tokens=3200.0),
    replica("b", context_tokens=1600.0, others_context_tokens=320.0),
    replica("c", prefill_tokens=160, others_prefill_tokens=320.0, context_tokens=480.0),
]


def test_the_terms_are_blocks_to_prefill_and_blocks_held() -> None:
    """a: (480 + 1600 - 1280) / 16 = 50, (3200 + 1600) / 16 = 300. b: 100, 220. c: (480 + 1600) / 16 = 130, 130."""
    assert KvCost(random.Random(1)).terms(FEATURES, LOADS) == [
        {"prefill_blocks": 50, "decode_blocks": 300, "cost": 350},
        {"prefill_blocks": 100, "decode_blocks": 220, "cost": 320},
        {"prefill_blocks": 130, "decode_blocks": 130, "cost": 260},
    ]


def test_the_lowest_cost_wins() -> None:
    policy = KvCost(random.Random(1))
    assert policy.choose(FEATURES, LOADS) == 2
    assert policy.choose(FEATURES, LOADS[:2]) == 1


def test_a_block_that_is_held_saves_as_much_as_one_less_to_decode_over() -> None:
    """16 blocks held against 16 blocks of context: equal, so any."""
    loads = [replica("a", context_tokens=256.0), replica("b")]
    assert {KvCost(random.Random(seed)).choose(Features(1600, 0.0, [256, 0]), loads) for seed in range(20)} == {0, 1}
    assert {KvCost(random.Random(seed)).choose(Features(1600, 0.0, [272, 0]), loads) for seed in range(20)} == {0}


def test_speed_makes_no_difference() -> None:
    slow, fast = replica("a"), replica("b", context_tokens=16.0)
    slow.speed.s_per_token = 1.0
    assert KvCost(random.Random(1)).choose(Features(1600), [slow, fast]) == 0
