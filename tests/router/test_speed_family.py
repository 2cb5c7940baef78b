"""What equal replicas learn together, and what each keeps of its own."""

from __future__ import annotations

import random

import pytest

from router.speed import Family, Speed


def teach(speed: Speed, rng: random.Random, count: int, *, times: float = 1.0, trip_s: float = 0.0) -> None:
    """An engine that takes 0.05 s a request, 0.1 ms a token and 1 ns a pair, `times` slower."""
    for _ in range(count):
        prompt = rng.randrange(200, 20_000)
        cached = rng.randrange(0, prompt)
        took_s = times * (0.05 + 1e-4 * (prompt - cached) + 1e-9 * (prompt**2 - cached**2))
        opening = rng.random() < 0.3
        speed.learn(took_s + trip_s if opening else took_s, prompt, cached, opening=opening)


def test_a_replica_of_which_nothing_was_seen_is_as_fast_as_its_family() -> None:
    family = Family()
    seen, unseen = Speed(family=family), Speed(family=family)
    teach(seen, random.Random(1), 200)
    assert unseen.observations == 0
    assert unseen.prefill_s(5000, 1000) == pytest.approx(seen.prefill_s(5000, 1000), rel=0.02)
    assert seen.s_per_request == pytest.approx(0.05, rel=0.2)


def test_one_that_left_hears_no_more_of_its_family() -> None:
    family = Family()
    seen, gone = Speed(family=family), Speed(family=family)
    before_s = gone.prefill_s(5000, 1000)
    gone.leave()
    gone.leave()
    teach(seen, random.Random(1), 50)
    assert gone.prefill_s(5000, 1000) == before_s
    assert family.members == [seen]


def test_a_family_that_has_seen_nothing_begins_like_another() -> None:
    known, new = Speed(), Speed()
    teach(known, random.Random(1), 200)
    new.begin_like([known])
    assert new.prefill_s(5000, 1000) == pytest.approx(known.prefill_s(5000, 1000), rel=0.02)
    teach(known, random.Random(2), 20, times=3.0)
    assert new.prefill_s(5000, 1000) < known.prefill_s(5000, 1000)


def test_what_the_first_prompt_took_is_put_down_to_its_tokens() -> None:
    """A prefix that is cached is worth something from the second prompt on."""
    speed = Speed()
    speed.learn(1.1, 500, 0, opening=True)
    assert speed.prefill_s(500, 450) < 0.35 * speed.prefill_s(500, 0)


def test_chance_in_short_prompts_is_no_sign_of_speed() -> None:
    """R04: one late answer of ten tokens sends nobody to a replica that hangs."""
    family = Family()
    late, other = Speed(family=family), Speed(family=family)
    late.learn(0.030, 10, 0, opening=True)
    assert late.prefill_s(10, 0) < 1.5 * other.prefill_s(10, 0)


def test_a_slower_one_among_them_is_told_apart() -> None:
    """R08"""
    family, rng = Family(), random.Random(2)
    fast, slow = Speed(family=family), Speed(family=family)
    for _ in range(60):
        teach(fast, rng, 5)
        teach(slow, rng, 5, times=2.0)
    assert slow.prefill_s(8000, 0) / fast.prefill_s(8000, 0) == pytest.approx(2.0, rel=0.15)


def test_equal_replicas_are_taken_for_equal_though_their_times_scatter() -> None:
    family, rng = Family(), random.Random(5)
    replicas = [Speed(family=family) for _ in range(8)]
    for _ in range(400):
        prompt = rng.randrange(200, 2000)
        took_s = (0.05 + 1e-4 * prompt) * rng.lognormvariate(0.0, 0.6)
        rng.choice(replicas).learn(took_s, prompt, 0, opening=False)
    predicted = [one.prefill_s(1000, 0) for one in replicas]
    assert max(predicted) < 1.1 * min(predicted)


def test_what_waited_for_something_else_than_prefills_does_not_spoil_what_is_known() -> None:
    speed, rng = Speed(), random.Random(3)
    teach(speed, rng, 100)
    before_s = speed.prefill_s(4000, 0)
    speed.learn(1000.0, 4000, 0, opening=False)
    assert speed.prefill_s(4000, 0) < 2.0 * before_s


def test_no_figure_is_negative_whatever_is_seen() -> None:
    speed, rng = Speed(), random.Random(4)
    for _ in range(300):
        prompt = rng.randrange(1, 30_000)
        speed.learn(rng.expovariate(1.0), prompt, rng.randrange(0, prompt), opening=rng.random() < 0.5)
        assert min(speed.s_per_token, speed.s_per_pair, speed.s_per_request, speed.fixed_s) >= 0.0
