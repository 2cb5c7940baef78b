"""Where peers cannot be seen, the nearly best are drawn among (R06)."""

from __future__ import annotations

import random
from collections import Counter

from router.jitter import BEST, Jittered
from router.load import ReplicaLoad
from router.policies import POLICIES
from router.policies.marginal_latency import MarginalLatency
from router.policies.round_robin import RoundRobin
from router.types import Features


def loads(*in_flight: int) -> list[ReplicaLoad]:
    made = [ReplicaLoad(f"p-{i}") for i in range(len(in_flight))]
    for load, count in zip(made, in_flight, strict=True):
        for _ in range(count):
            load.begin(1000, 0, 10.0, 0.0)
    return made


def jittered(policy: str, *, blind: bool = True) -> Jittered:
    return Jittered(POLICIES[policy](random.Random(1)), random.Random(2), lambda: blind)


def drawn(policy: Jittered, replicas: list[ReplicaLoad], features: Features | None = None) -> Counter[int]:
    return Counter(policy.choose(features or Features(1000), replicas) for _ in range(3000))


def test_r06_a_blind_gateway_draws_among_the_best_that_cost_nearly_the_same() -> None:
    counts = drawn(jittered("least_requests"), loads(10, 11, 12, 13, 40))
    assert set(counts) == {0, 1, 2}
    assert min(counts.values()) > 900


def test_all_of_the_same_cost_have_the_same_chance() -> None:
    for policy in ("random", "least_requests"):
        counts = drawn(jittered(policy), loads(3, 3, 3, 3, 3, 3))
        assert len(counts) == 6 > BEST
        assert min(counts.values()) > 400


def test_a_prefix_that_one_replica_holds_is_not_given_up() -> None:
    features = Features(20_000, cached=(0, 19_000, 0))
    assert set(drawn(jittered("marginal_latency"), loads(0, 0, 0), features)) == {1}


def test_a_gateway_that_sees_its_peers_asks_its_policy_alone() -> None:
    assert set(drawn(jittered("least_requests", blind=False), loads(10, 11, 12))) == {0}
    assert jittered("least_requests").choose(Features(), loads(5)) == 0


def test_policies_that_take_turns_go_on_taking_them() -> None:
    policy = Jittered(RoundRobin(), random.Random(1), lambda: True)
    assert [policy.choose(Features(), loads(0, 0, 0)) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_it_tells_what_its_policy_tells() -> None:
    inner = MarginalLatency(random.Random(1))
    policy = Jittered(inner, random.Random(1), lambda: True)
    replicas = loads(1, 2)
    assert policy.needs_prefix
    assert policy.terms(Features(100), replicas) == inner.terms(Features(100), replicas)
