"""What only this policy promises: LMetric's rule."""

from __future__ import annotations

import random

from router.policies.lmetric import LMetric
from router.types import Features
from tests.router.loads import replica


def test_the_cost_is_prefill_tokens_times_requests_with_this_one() -> None:
    """a: (300 + 1000 - 800) * 4 = 2000. b: (1000 + 100) * 2 = 2200. c: (0 + 1000) * 2.5 = 2500."""
    loads = [
        replica("a", prefill_tokens=300, in_flight=3),
        replica("b", others_prefill_tokens=100.0, in_flight=1),
        replica("c", others_in_flight=1.5),
    ]
    policy = LMetric(random.Random(1))
    features = Features(1000, 10.0, [800, 0, 0])
    assert policy.terms(features, loads) == [
        {"prefill_tokens": 500, "batch": 4, "cost": 2000},
        {"prefill_tokens": 1100, "batch": 2, "cost": 2200},
        {"prefill_tokens": 1000, "batch": 2.5, "cost": 2500},
    ]
    assert policy.choose(features, loads) == 0
    assert policy.choose(Features(1000), loads) == 1


def test_a_prompt_that_all_hold_goes_where_the_fewest_are_in_flight() -> None:
    loads = [replica("a", in_flight=3), replica("b", in_flight=1), replica("c", in_flight=2)]
    assert {LMetric(random.Random(seed)).choose(Features(1000, 10.0, [1000] * 3), loads) for seed in range(20)} == {1}


def test_equals_are_drawn() -> None:
    loads = [replica("a", in_flight=1), replica("b", in_flight=1)]
    assert {LMetric(random.Random(seed)).choose(Features(1000), loads) for seed in range(20)} == {0, 1}
