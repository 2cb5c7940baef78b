"""What is learned of an engine's speed, in virtual time (R08)."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.load import ReplicaLoad
from router.speed import Speed
from tests.router.fcfs import Engine, poisson, serve

SPEEDS = (2e-5, 1e-4, 1e-3)


def learned(engine: Engine, busy: float, load: ReplicaLoad | None = None, *, count: int = 300, seed: int = 1) -> Speed:
    """busy: share of the time that the engine computes."""
    load = ReplicaLoad("a") if load is None else load
    mean_s = 1000 * engine.s_per_token + 1000**2 * engine.s_per_pair
    serve(poisson(random.Random(seed), busy / mean_s, (100, 1900), count), [engine], [load], lambda now_s, tokens: 0)
    return load.speed


@pytest.mark.parametrize("busy", [0.01, 0.5, 0.9, 1.5])
@pytest.mark.parametrize("s_per_token", SPEEDS)
def test_the_speed_is_learned_alike_from_an_idle_and_a_busy_engine(s_per_token: float, busy: float) -> None:
    speed = learned(Engine(s_per_token), busy)
    assert speed.s_per_token == pytest.approx(s_per_token, rel=0.1)
    assert speed.fixed_s == pytest.approx(0.0, abs=100 * s_per_token)


@pytest.mark.parametrize("busy", [0.01, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("s_per_token", SPEEDS)
def test_a_round_trip_is_told_apart_from_the_prefill(s_per_token: float, busy: float) -> None:
    speed = learned(Engine(s_per_token, rtt_s=0.08), busy, count=500)
    assert speed.s_per_token == pytest.approx(s_per_token, rel=0.1)
    assert speed.fixed_s == pytest.approx(0.08, rel=0.1)


def test_that_attention_grows_with_the_square_of_a_prompt_is_learned() -> None:
    speed = learned(Engine(1e-4, s_per_pair=1e-7), 0.6, count=500)
    for tokens, takes_s in ((200, 0.024), (1000, 0.2), (1800, 0.504)):
        assert speed.prefill_s(tokens, 0) == pytest.approx(takes_s, rel=0.1)
    assert speed.prefill_s(1800, 1000) == pytest.approx(0.504 - 0.2, rel=0.1)


@pytest.mark.parametrize(("before", "after"), [(1e-4, 3e-4), (3e-4, 1e-4), (1e-3, 2e-5)])
def test_a_change_of_speed_is_followed_within_a_hundred_requests(before: float, after: float) -> None:
    """Within fifty, most of the way: the older half of what is remembered has lost its weight."""
    load, engine = ReplicaLoad("a"), Engine(before, rtt_s=0.01)
    learned(engine, 0.6, load)
    shares = []
    for _ in range(2):
        engine = Engine(after, rtt_s=0.01)
        speed = learned(engine, 0.6, load, count=50)
        shares.append((speed.prefill_s(1000, 0) - 1000 * before) / (1000 * (after - before)))
    assert shares[0] > 0.5
    assert shares[1] == pytest.approx(1.0, abs=0.2)


def test_what_is_believed_before_anything_is_seen_gives_way_to_the_first_answers() -> None:
    speed = Speed()
    assert speed.prefill_s(1000, 500) == pytest.approx(0.05)
    for _ in range(3):
        speed.learn(2.0, 2000, 0, opening=True)
    assert speed.prefill_s(2000, 0) + speed.fixed_s == pytest.approx(2.0, rel=0.1)
    assert repr(speed).endswith(" observations=3>")


@given(
    seen=st.lists(
        st.tuples(st.floats(0.0, 1e4), st.integers(0, 200_000), st.floats(0.0, 1.0), st.booleans()), max_size=60
    )
)
def test_no_figure_is_ever_negative_or_without_an_end(seen: list[tuple[float, int, float, bool]]) -> None:
    speed = Speed()
    for took_s, tokens, share, opening in seen:
        speed.learn(took_s, tokens, int(tokens * share), opening=opening)
        for figure in (speed.s_per_token, speed.s_per_pair, speed.fixed_s):
            assert figure >= 0.0
            assert math.isfinite(figure)


def test_requests_without_tokens_to_prefill_say_nothing_of_the_speed_however_many_they_are() -> None:
    speed = Speed(2e-4)
    for _ in range(50_000):
        speed.learn(0.03, 700, 700, opening=True)
    assert speed.s_per_token == pytest.approx(2e-4, rel=0.01)
    assert speed.fixed_s == pytest.approx(0.03, rel=0.01)


def test_the_round_trip_is_remembered_for_as_long_as_it_does_not_show() -> None:
    """A replica that is busy for hours is no nearer for that."""
    speed, rng = Speed(), random.Random(3)
    for _ in range(100):
        tokens = rng.randint(100, 2000)
        speed.learn(0.08 + tokens * 1e-4, tokens, 0, opening=True)
    for _ in range(50_000):
        tokens = rng.randint(100, 2000)
        speed.learn(tokens * 1e-4, tokens, 0, opening=False)
    assert speed.s_per_token == pytest.approx(1e-4, rel=0.01)
    assert speed.fixed_s == pytest.approx(0.08, rel=0.05)
    speed.learn(2.1, 1000, 0, opening=True)
    assert speed.fixed_s < 1.2, "one hiccup is not believed at once"


def test_times_that_are_next_to_nothing_are_nothing_to_compare_with() -> None:
    speed = Speed()
    speed.learn(1.9e-292, 0, 0, opening=False)
    assert speed.s_per_token == pytest.approx(1e-4)
