"""Each term by hand, and what follows from it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from router.load import ReplicaLoad
from router.policies.marginal_latency import MarginalLatency
from router.speed import Speed
from router.types import Features

NOW_S = 100.0


def replica(name: str = "p-0", *, s_per_token: float = 1e-4, fixed_s: float = 0.0, kv: int = 0) -> ReplicaLoad:
    return ReplicaLoad(name, Speed(s_per_token, fixed_s), kv_capacity_tokens=kv)


def decoding(load: ReplicaLoad, *ages_s: float, prompt_tokens: int = 1000) -> ReplicaLoad:
    """With one request of each age past its first token."""
    for age_s in ages_s:
        load.begin(prompt_tokens, 0, 0.0, NOW_S - age_s).first_token(NOW_S - age_s)
    return load


def terms(features: Features, *replicas: ReplicaLoad) -> list[dict[str, float]]:
    return [dict(one) for one in MarginalLatency(random.Random(7)).terms(features, replicas)]


def chosen(features: Features, replicas: Sequence[ReplicaLoad]) -> set[int]:
    return {MarginalLatency(random.Random(seed)).choose(features, replicas) for seed in range(10)}


def test_an_idle_replica_costs_the_prefill_of_what_it_lacks_and_its_fixed_time() -> None:
    told = terms(Features(1000, cached=[400], now_s=NOW_S), replica(fixed_s=0.05))
    assert told == [
        {
            "backlog_s": 0.0,
            "prefill_s": pytest.approx(0.06),
            "stall_s": 0.0,
            "delay_s": 0.0,
            "fixed_s": 0.05,
            "kv_s": 0.0,
            "cost": pytest.approx(0.11),
        }
    ]


def test_pairs_of_tokens_are_part_of_the_prefill() -> None:
    load = ReplicaLoad("p-0", Speed(1e-4, s_per_pair=1e-8))
    (told,) = terms(Features(3000, cached=[1000], now_s=NOW_S), load)
    assert told["prefill_s"] == pytest.approx(0.2 + 0.08)  # 2000 tokens; 3000² - 1000² pairs


def test_requests_in_flight_count_by_their_age() -> None:
    """Mean age 20 s: the one of 30 s counts (1 + 30/20) / 2, that of 10 s (1 + 10/20) / 2; half of the second
    is theirs, and counts half: they have their first tokens."""
    views = [decoding(replica("a"), 30.0), decoding(replica("b"), 10.0)]
    told = terms(Features(10_000, now_s=NOW_S), *views)
    assert [one["stall_s"] for one in told] == [pytest.approx(0.3125), pytest.approx(0.1875)]
    assert chosen(Features(10_000, now_s=NOW_S), views) == {1}


def test_requests_that_have_waited_long_keep_a_long_prompt_away() -> None:
    """Two that have crawled for a minute weigh more than three that have just begun."""
    views = [decoding(replica("crawls"), 60.0, 60.0), decoding(replica("runs"), 10.0, 10.0, 10.0)]
    assert chosen(Features(10_000, now_s=NOW_S), views) == {1}


def test_requests_of_no_age_count_as_one_each() -> None:
    told = terms(Features(10_000, now_s=NOW_S), decoding(replica("a"), 0.0, 0.0), replica("b"))
    assert [one["stall_s"] for one in told] == [pytest.approx(0.5), 0.0]


def test_the_requests_of_others_are_of_the_mean_age() -> None:
    load = decoding(replica(), 20.0)
    load.others_in_flight = 3.0
    (told,) = terms(Features(10_000, now_s=NOW_S), load)
    assert told["stall_s"] == pytest.approx(0.25 * 4)


def test_who_arrives_during_a_backlog_is_delayed_too() -> None:
    """4 in flight, of age 10 s on the mean, so a latency of 20 s: with this prefill's second and the backlog's 2,
    4/2/23 arrive a second and replica; the backlog of 2 s stands for 8."""
    views = [decoding(replica("a"), 40.0 / 3, 40.0 / 3, 40.0 / 3), replica("b")]
    views[0].begin(20_000, 0, 0.0, NOW_S)
    told = terms(Features(10_000, now_s=NOW_S), *views)
    assert told[0]["backlog_s"] == pytest.approx(2.0)
    assert told[0]["delay_s"] == pytest.approx(4 / 2 / 23 * 8.0 * 1.0)
    assert told[1]["delay_s"] == 0.0


def test_who_needs_no_prefill_delays_nobody() -> None:
    load = replica()
    load.begin(20_000, 0, 0.0, NOW_S)
    (told,) = terms(Features(10_000, cached=[10_000], now_s=NOW_S), load)
    assert (told["delay_s"], told["stall_s"]) == (0.0, 0.0)
    assert told["cost"] == pytest.approx(2.0)


def test_a_full_cache_makes_an_answer_slower_by_a_quarter_which_counts_half() -> None:
    """Mean age 20 s, so a latency of 40 s; 1000 tokens there and 1500 that come, of 10,000."""
    views = [decoding(replica("a", kv=10_000), 20.0), decoding(replica("b"), 20.0)]
    told = terms(Features(1000, 500.0, now_s=NOW_S), *views)
    assert [one["kv_s"] for one in told] == [pytest.approx(10.0 * 0.125), 0.0]


def test_the_cost_is_the_sum_of_the_terms_in_seconds() -> None:
    load = decoding(replica(fixed_s=0.1, kv=50_000), 20.0, 5.0)
    load.begin(4000, 0, 0.0, NOW_S)
    (told,) = terms(Features(3000, 100.0, [500], now_s=NOW_S), load)
    cost = told.pop("cost")
    assert all(told.values())
    assert cost == pytest.approx(sum(told.values()))


def test_a_slow_holder_of_the_prefix_loses_to_a_fast_replica_without_it() -> None:
    views = [replica("slow", s_per_token=1e-3), replica("fast", s_per_token=1e-4)]
    assert chosen(Features(10_000, cached=[8000, 0]), views) == {1}


def test_costs_that_are_equal_but_for_a_trifle_go_to_who_has_the_least_to_do() -> None:
    views = [decoding(replica("a"), 10.0), replica("b", s_per_token=1.01e-4)]
    assert chosen(Features(10, now_s=NOW_S), views) == {1}


def test_equal_replicas_are_chosen_by_chance() -> None:
    assert chosen(Features(1000, now_s=NOW_S), [replica("a"), replica("b")]) == {0, 1}


def test_the_disadvantage_of_an_idle_replica_halves_every_quarter_of_a_minute() -> None:
    """R02"""
    views = [replica("holds"), replica("idle")]
    told = terms(Features(10_000, cached=[10_000, 0], now_s=15.0), *views)
    assert [one["cost"] for one in told] == [0.0, pytest.approx(0.5)]
    assert chosen(Features(10_000, cached=[10_000, 0], now_s=15.0), views) == {0}
    assert chosen(Features(10_000, cached=[10_000, 0], now_s=300.0), views) == {0, 1}


def test_one_replica_needs_no_choice() -> None:
    assert chosen(Features(1000, now_s=NOW_S), [replica()]) == {0}
