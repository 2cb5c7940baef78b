"""What only this policy promises."""

from __future__ import annotations

import random
from collections import Counter

from router.policies.power_of_two import PowerOfTwo
from router.types import Features
from tests.router.loads import replica


def test_of_any_two_the_one_with_fewer_in_flight_is_taken() -> None:
    """Of the three pairs of three replicas, the idlest wins two, the busiest none."""
    loads = [replica("a", in_flight=2), replica("b", in_flight=1), replica("c")]
    policy = PowerOfTwo(random.Random(1))
    chosen = Counter(policy.choose(Features(), loads) for _ in range(3000))
    assert set(chosen) == {1, 2}
    assert 1850 < chosen[2] < 2150


def test_requests_of_others_count() -> None:
    loads = [replica("a", in_flight=1, others_in_flight=4), replica("b", in_flight=3)]
    policy = PowerOfTwo(random.Random(1))
    assert {policy.choose(Features(), loads) for _ in range(50)} == {1}
    assert [terms["cost"] for terms in policy.terms(Features(), loads)] == [5, 3]


def test_equals_are_drawn_evenly() -> None:
    policy = PowerOfTwo(random.Random(1))
    chosen = Counter(policy.choose(Features(), [replica(name) for name in "abcd"]) for _ in range(4000))
    assert all(850 < times < 1150 for times in chosen.values())
    assert len(chosen) == 4


def test_one_replica_is_taken_without_a_draw() -> None:
    assert PowerOfTwo(random.Random(1)).choose(Features(), [replica("a", in_flight=9)]) == 0
