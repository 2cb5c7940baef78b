"""What every policy owes its caller, whatever it prefers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Deployment
from router.load import ReplicaLoad
from router.policies import POLICIES
from router.types import Features, Policy


def view(name: str, in_flight: int = 0, served: int = 0) -> ReplicaLoad:
    load = ReplicaLoad(name)
    load.in_flight, load.served = in_flight, served
    return load


_VIEWS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 1000)), min_size=1, max_size=12).map(
    lambda rows: [view(f"p-{i}", in_flight, served) for i, (in_flight, served) in enumerate(rows)]
)


@pytest.fixture(params=sorted(POLICIES))
def policy_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def policy(policy_name: str) -> Policy:
    return POLICIES[policy_name](random.Random(7))


def play(policy: Policy, views: Sequence[ReplicaLoad], calls: int, *, hold: bool) -> Counter[str]:
    """How often each replica is chosen; `hold`: no call ends meanwhile."""
    chosen: Counter[str] = Counter()
    for call in range(calls):
        chosen_one = views[policy.choose(Features(100, now_s=float(call)), views)]
        work = chosen_one.begin(100, 0, 10.0, float(call))
        if not hold:
            work.first_token(call + 0.01)
            work.close()
        chosen[chosen_one.name] += 1
    return chosen


def test_the_configuration_offers_every_policy_and_no_other() -> None:
    assert set(get_args(Deployment.model_fields["policy"].annotation)) == set(POLICIES)


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(views=_VIEWS, prompt_bytes=st.integers(0, 1 << 25), seed=st.integers(0, 99))
def test_a_choice_is_one_of_those_offered_and_changes_none(
    name: str, views: list[ReplicaLoad], prompt_bytes: int, seed: int
) -> None:
    before = [(v.name, v.in_flight, v.served) for v in views]
    policy = POLICIES[name](random.Random(seed))
    for _ in range(3):
        assert 0 <= policy.choose(Features(prompt_bytes), views) < len(views)
    assert [(v.name, v.in_flight, v.served) for v in views] == before


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(views=_VIEWS, seed=st.integers(0, 99))
def test_the_same_seed_and_the_same_views_give_the_same_choices(name: str, views: list[ReplicaLoad], seed: int) -> None:
    first, second = (POLICIES[name](random.Random(seed)) for _ in range(2))
    for _ in range(5):
        assert first.choose(Features(), views) == second.choose(Features(), views)


def test_paced_calls_that_never_overlap_still_spread(policy: Policy) -> None:
    """R01"""
    chosen = play(policy, [view(f"p-{i}") for i in range(4)], 400, hold=False)
    assert min(chosen.values()) >= 70
    assert len(chosen) == 4


def test_calls_that_pile_up_are_shared_evenly(policy: Policy) -> None:
    """R01"""
    chosen = play(policy, [view(f"p-{i}") for i in range(4)], 400, hold=True)
    assert min(chosen.values()) >= 70


def test_a_replica_that_comes_back_gets_its_share(policy: Policy) -> None:
    """R01: those offered change with every breaker."""
    views = [view(f"p-{i}") for i in range(3)]
    play(policy, views[:2], 20, hold=True)
    assert play(policy, views, 60, hold=True)["p-2"] >= 12


def test_two_workers_side_by_side_do_not_choose_in_step(policy_name: str) -> None:
    """R06: each with a seed of its own, at the same moment, on the same picture."""
    if policy_name == "round_robin":
        pytest.skip("a fixed order is what it is for")
    firsts = {
        POLICIES[policy_name](random.Random(seed)).choose(Features(), [view("a"), view("b")]) for seed in range(20)
    }
    assert firsts == {0, 1}
