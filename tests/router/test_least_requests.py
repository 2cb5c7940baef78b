"""What only this policy promises."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from router.policies.least_requests import LeastRequests
from router.policies.round_robin import RoundRobin
from router.types import Features
from tests.contract.test_policies import view
from tests.router.loads import replica


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8), st.integers(0, 99))
def test_nobody_has_fewer_in_flight_than_the_chosen_and_of_equals_nobody_served_fewer(
    rows: list[tuple[int, int]], seed: int
) -> None:
    views = [view(f"p-{i}", *row) for i, row in enumerate(rows)]
    chosen = views[LeastRequests(random.Random(seed)).choose(Features(), views)]
    assert (chosen.in_flight, chosen.served) == min(rows)


def test_ties_go_to_any_of_the_equals() -> None:
    policy = LeastRequests(random.Random(1))
    views = [view("a", 1), view("b"), view("c"), view("d", 1)]
    assert {policy.choose(Features(), views) for _ in range(50)} == {1, 2}


def test_requests_of_others_count() -> None:
    loads = [replica("a", in_flight=1, others_in_flight=4.0), replica("b", in_flight=3)]
    policy = LeastRequests(random.Random(1))
    assert policy.choose(Features(), loads) == 1
    assert [terms["cost"] for terms in policy.terms(Features(), loads)] == [5, 3]


def test_round_robin_keeps_its_turn_when_replicas_come_and_go() -> None:
    policy = RoundRobin()
    a, b, c = view("a"), view("b"), view("c")
    turns = [[a, b, c], [a, b, c], [c, a], [c, b, a], [b], [a, c], [b, c]]
    chosen = [views[policy.choose(Features(), views)].name for views in turns]
    assert chosen == ["a", "b", "c", "a", "b", "c", "b"]
