"""What every policy owes its caller, whatever it prefers."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Deployment
from router.load import ReplicaLoad
from router.policies import POLICIES
from router.types import Features, Policy
from tests.contract.fleet import S_PER_TOKEN, Traffic, shares

# Those that are here to be compared with, as published. What they fail is theirs; docs/guide/policies.md says it.
_PIN_A_SHARED_PREFIX = {
    "cache_aware": "nothing spreads until one replica has 64 requests more than another",
    "weighted_scorers": "a prefix of 2/3 of the prompt outweighs any queue",
}
_STAY_WITH_THE_HOLDER = {"cache_aware", "kv_cost", "lmetric", "weighted_scorers"}
"""Of idle replicas, the one that holds the prefix is chosen every time: the others never get it (R01)."""
_TAKEN_FOR_EQUAL = {"marginal_latency": (0.05, 0.005)}
"""Shares of a cost, and costs, that a rule may overlook."""


def view(name: str, in_flight: int = 0, served: int = 0) -> ReplicaLoad:
    load = ReplicaLoad(name)
    load.in_flight, load.served = in_flight, served
    return load


_VIEWS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 1000)), min_size=1, max_size=12).map(
    lambda rows: [view(f"p-{i}", in_flight, served) for i, (in_flight, served) in enumerate(rows)]
)


@st.composite
def moments(draw: st.DrawFn) -> tuple[Features, list[ReplicaLoad]]:
    """A request and the replicas that may serve it, with work in every stage."""
    prompt_tokens = draw(st.integers(0, 100_000))
    loads, cached = [], []
    for i in range(draw(st.integers(1, 8))):
        load = ReplicaLoad(f"p-{i}", kv_capacity_tokens=draw(st.sampled_from([0, 20_000, 500_000])))
        for started in draw(st.lists(st.booleans(), max_size=5)):
            work = load.begin(draw(st.integers(0, 9000)), draw(st.integers(0, 9000)), 20.0, float(i))
            if started:
                work.first_token(i + 0.3)
        load.others_in_flight = draw(st.floats(0, 50))
        load.others_prefill_tokens = load.others_context_tokens = draw(st.floats(0, 1e6))
        loads.append(load)
        cached.append(draw(st.integers(0, prompt_tokens)))
    known = draw(st.booleans())
    session = draw(st.sampled_from(["", "a", "b"]))
    return Features(prompt_tokens, draw(st.floats(0, 5000)), cached if known else (), session, 100.0), loads


def state_of(loads: Sequence[ReplicaLoad]) -> list[tuple[object, ...]]:
    return [
        (
            repr(v),
            repr(v.speed),
            v.served,
            v.kv_usage(),
            v.recent_tokens(100.0),
            v.others_in_flight,
            v.others_prefill_tokens,
            v.others_context_tokens,
        )
        for v in loads
    ]


@pytest.fixture(params=sorted(POLICIES))
def policy_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def policy(policy_name: str) -> Policy:
    return POLICIES[policy_name](random.Random(7))


def play(
    policy: Policy, views: Sequence[ReplicaLoad], calls: int, *, hold: bool, prefix_tokens: int = 0
) -> Counter[str]:
    """How often each replica is chosen, a call a second.

    hold:          no call ends meanwhile.
    prefix_tokens: what all calls share; a replica holds it once it had one.
    """
    chosen: Counter[str] = Counter({view.name: 0 for view in views})
    for call in range(calls):
        cached = [prefix_tokens if chosen[view.name] else 0 for view in views]
        to = policy.choose(Features(prefix_tokens + 100, 10.0, cached, now_s=float(call)), views)
        work = views[to].begin(prefix_tokens + 100, cached[to], 10.0, float(call))
        if not hold:
            work.first_token(call + 0.01 + (prefix_tokens - cached[to]) * S_PER_TOKEN)
            work.close()
        chosen[views[to].name] += 1
    return chosen


def test_the_configuration_offers_every_policy_and_no_other() -> None:
    assert set(get_args(Deployment.model_fields["policy"].annotation)) == set(POLICIES)


@pytest.mark.parametrize("name", sorted(POLICIES))
@settings(max_examples=40)
@given(moment=moments(), seed=st.integers(0, 99))
def test_a_choice_is_one_of_those_offered_and_changes_none(
    name: str, moment: tuple[Features, list[ReplicaLoad]], seed: int
) -> None:
    features, loads = moment
    before = state_of(loads)
    policy = POLICIES[name](random.Random(seed))
    for _ in range(3):
        assert 0 <= policy.choose(features, loads) < len(loads)
    assert state_of(loads) == before


@pytest.mark.parametrize("name", sorted(POLICIES))
@settings(max_examples=40)
@given(moment=moments(), seed=st.integers(0, 99))
def test_terms_tell_a_finite_cost_for_each_candidate_and_change_nothing(
    name: str, moment: tuple[Features, list[ReplicaLoad]], seed: int
) -> None:
    features, loads = moment
    before = state_of(loads)
    asked, unasked = (POLICIES[name](random.Random(seed)) for _ in range(2))
    told = asked.terms(features, loads)
    assert len(told) == len(loads)
    assert len({frozenset(terms) for terms in told}) == 1
    assert all(math.isfinite(figure) for terms in told for figure in terms.values())
    assert all("cost" in terms for terms in told)
    assert state_of(loads) == before
    assert [asked.choose(features, loads) for _ in range(3)] == [unasked.choose(features, loads) for _ in range(3)]


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"power_of_two"}))
@settings(max_examples=40)
@given(moment=moments(), seed=st.integers(0, 99))
def test_nobody_costs_less_than_the_chosen(name: str, moment: tuple[Features, list[ReplicaLoad]], seed: int) -> None:
    """Power of two is left out: its cost decides between the two that it drew."""
    features, loads = moment
    policy = POLICIES[name](random.Random(seed))
    costs = [terms["cost"] for terms in policy.terms(features, loads)]
    share, least = _TAKEN_FOR_EQUAL.get(name, (0.0, 0.0))
    assert costs[policy.choose(features, loads)] <= min(costs) * (1 + share) + least


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


def test_paced_calls_that_share_a_prefix_reach_every_replica(policy_name: str) -> None:
    """R01: nobody stays idle because somebody else was first."""
    views = [view(f"p-{i}") for i in range(4)]
    chosen = play(POLICIES[policy_name](random.Random(7)), views, 400, hold=False, prefix_tokens=2000)
    if policy_name in _STAY_WITH_THE_HOLDER:
        assert sorted(chosen.values()) == [0, 0, 0, 400]
    else:
        assert min(chosen.values()) >= 40


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
    """R06: each with a seed of its own, at the same moment, on the same picture.

    Round robin is exempt: a fixed order is what it is for. So is `session` where a session is given: there, all workers
    are to find the same home, and its limit of requests in flight keeps that from growing into a herd.
    """
    if policy_name == "round_robin":
        pytest.skip("a fixed order is what it is for")
    firsts = {
        POLICIES[policy_name](random.Random(seed)).choose(Features(), [view("a"), view("b")]) for seed in range(20)
    }
    assert firsts == {0, 1}


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_a_prefix_that_all_share_does_not_pin_them_to_one_replica(policy_name: str, load: float) -> None:
    """R02"""
    traffic = Traffic(load=load, sessions=60 if policy_name == "session" else 0)
    chosen = shares(POLICIES[policy_name](random.Random(7)), traffic)
    ratio = max(chosen.values()) / (traffic.calls / len(chosen))
    if policy_name not in _PIN_A_SHARED_PREFIX:
        assert ratio <= 1.5
    elif load < 0.5:
        assert ratio > 1.5, f"it has been said of {policy_name} that {_PIN_A_SHARED_PREFIX[policy_name]}"
