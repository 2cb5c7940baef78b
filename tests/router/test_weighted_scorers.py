"""What only this policy promises: llm-d's rule."""

from __future__ import annotations

import random

import pytest

from router.policies.weighted_scorers import WeightedScorers
from router.types import Features
from tests.router.loads import replica


def test_the_terms_are_what_each_score_lacks_times_its_weight() -> None:
    """Queues of 2, 5 and 8. KV: a quarter used, a half, unknown. Prefix: 0.9, 0, 0.5."""
    loads = [
        replica("a", waiting=2, context_tokens=2500.0, kv_capacity_tokens=10_000),
        replica("b", waiting=5, context_tokens=3000.0, others_context_tokens=2000.0, kv_capacity_tokens=10_000),
        replica("c", waiting=8, context_tokens=9000.0),
    ]
    policy = WeightedScorers(random.Random(1))
    features = Features(1000, 10.0, [900, 0, 500])
    told = policy.terms(features, loads)
    assert told[0] == pytest.approx({"queue": 0.0, "kv": 0.5, "prefix": 0.3, "cost": 0.8})
    assert told[1] == pytest.approx({"queue": 1.0, "kv": 1.0, "prefix": 3.0, "cost": 5.0})
    assert told[2] == pytest.approx({"queue": 2.0, "kv": 0.0, "prefix": 1.5, "cost": 3.5})
    assert policy.choose(features, loads) == 0
    assert policy.choose(Features(1000, 10.0, [0, 500]), loads[1:]) == 1


@pytest.mark.parametrize(("cached", "expected"), [(660, 1), (670, 0)])
def test_a_prefix_of_two_thirds_outweighs_any_queue(cached: int, expected: int) -> None:
    loads = [replica("a", waiting=1000), replica("b")]
    assert WeightedScorers(random.Random(1)).choose(Features(1000, 10.0, [cached, 0]), loads) == expected


def test_a_queue_one_longer_counts_as_much_as_a_thousand_longer() -> None:
    policy = WeightedScorers(random.Random(1))
    queues = [[replica("a", waiting=more), replica("b")] for more in (1, 1000)]
    assert [policy.terms(Features(1000), loads)[0]["queue"] for loads in queues] == [2.0, 2.0]


def test_a_cache_spoken_for_more_than_once_counts_as_full() -> None:
    loads = [replica("a", context_tokens=30_000.0, kv_capacity_tokens=10_000)]
    assert WeightedScorers(random.Random(1)).terms(Features(1000), loads)[0]["kv"] == 2.0


def test_equals_are_drawn() -> None:
    loads = [replica("a"), replica("b")]
    assert {WeightedScorers(random.Random(seed)).choose(Features(), loads) for seed in range(20)} == {0, 1}
