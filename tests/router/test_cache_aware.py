"""What only this policy promises: SGLang's rule."""

from __future__ import annotations

import random

import pytest

from router.policies.cache_aware import CacheAware
from router.types import Features
from tests.router.loads import replica


def chosen(features: Features, requests: list[float]) -> set[int]:
    """Those that are chosen, over many seeds."""
    loads = [replica(f"p-{i}", in_flight=count) for i, count in enumerate(requests)]
    return {CacheAware(random.Random(seed)).choose(features, loads) for seed in range(30)}


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([64, 0, 1], {0}),  # 64 apart is not more than 64
        ([65, 0, 1], {1}),  # 65 apart, and more than 1.5 times none
        ([195, 130, 180], {0}),  # 65 apart, but 195 is not more than 1.5 * 130
        ([196, 130, 180], {1}),
    ],
)
def test_the_match_decides_until_the_replicas_are_out_of_balance(requests: list[float], expected: set[int]) -> None:
    assert chosen(Features(1000, 10.0, [900, 0, 0]), requests) == expected


@pytest.mark.parametrize(
    ("cached", "expected"),
    [
        ([300, 0, 200], {1}),  # 0.3 is not more than 0.3: the fewest in flight
        ([301, 0, 200], {0}),
        ([301, 0, 500], {2}),
        ([0, 0, 0], {1}),
        ([], {1}),
    ],
)
def test_a_match_counts_from_three_tenths_of_the_prompt(cached: list[int], expected: set[int]) -> None:
    assert chosen(Features(1000, 10.0, cached), [3, 1, 2]) == expected


def test_of_equal_matches_the_fewest_in_flight_then_the_fewest_tokens_of_late_decide() -> None:
    assert chosen(Features(1000, 10.0, [900, 900, 0]), [2, 1, 0]) == {1}
    busier, idler = replica("a"), replica("b")
    busier.begin(800, 0, 0.0, 0.0).close()
    idler.begin(500, 0, 0.0, 0.0).close()
    for features in (Features(1000, 10.0, [900, 900], now_s=1.0), Features(1000, 10.0, [0, 0], now_s=1.0)):
        assert CacheAware(random.Random(1)).choose(features, [busier, idler]) == 1


def test_full_equals_are_drawn() -> None:
    assert chosen(Features(1000, 10.0, [900, 900, 0]), [1, 1, 0]) == {0, 1}


def test_terms_tell_what_the_rule_looks_at() -> None:
    loads = [replica("a", in_flight=5), replica("b", in_flight=2, others_in_flight=1.5)]
    policy = CacheAware(random.Random(1))
    assert policy.terms(Features(1000, 10.0, [900, 100]), loads) == [
        {"uncached_tokens": 100, "in_flight": 5, "recent_tokens": 0, "cost": 100},
        {"uncached_tokens": 900, "in_flight": 3.5, "recent_tokens": 0, "cost": 900},
    ]
    assert [terms["cost"] for terms in policy.terms(Features(1000, 10.0, [200, 100]), loads)] == [5, 3.5]
