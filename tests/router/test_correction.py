"""What others have at a replica: it corrects, and grows old."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.correction import NONE, EngineSnapshot, Sums, correct
from router.load import ReplicaLoad


def others(load: ReplicaLoad) -> tuple[float, float, float]:
    return load.others_in_flight, load.others_prefill_tokens, load.others_context_tokens


def corrected(snapshot: EngineSnapshot | None, peers: Sums = NONE, now_s: float = 100.0) -> ReplicaLoad:
    load = ReplicaLoad("p-0")
    correct(load, snapshot, peers, now_s)
    return load


def test_what_an_engine_has_beyond_the_books_is_somebody_elses() -> None:
    snapshot = EngineSnapshot(
        running=5,
        waiting=4,
        kv_usage=0.5,
        kv_capacity_tokens=10_000,
        mean_uncached_tokens=300.0,
        at_s=100.0,
        known=Sums(3, 500, 2000.0),
        known_waiting=1,
    )
    load = corrected(snapshot)
    assert others(load) == (6.0, 900.0, 3000.0)
    assert load.kv_capacity_tokens == 10_000


def test_r07_an_engine_that_says_less_than_the_books_takes_nothing_off_them() -> None:
    snapshot = EngineSnapshot(0, 0, 0.0, 10_000, mean_uncached_tokens=300, at_s=100, known=Sums(7, 800, 90_000))
    assert others(corrected(snapshot)) == (0.0, 0.0, 0.0)


def test_kv_blocks_that_nobody_uses_are_no_load() -> None:
    """Usage that is left over when all requests are known is their own: expected lengths are only expected."""
    snapshot = EngineSnapshot(3, 0, 0.9, 10_000, at_s=100, known=Sums(3, 0, 1000))
    assert others(corrected(snapshot)) == (0.0, 0.0, 0.0)


def test_what_peers_tell_is_not_counted_twice() -> None:
    peers = Sums(4, 400, 4000)
    snapshot = EngineSnapshot(6, 0, 0.8, 10_000, at_s=100, known=Sums(1, 0, 1000) + peers)
    load = corrected(snapshot, peers)
    assert others(load) == (5.0, 400.0, 7000.0)  # peers' four, and one of a stranger


@pytest.mark.parametrize(
    ("age_s", "weight"), [(-1.0, 1.0), (0.0, 1.0), (7.5, 1.0), (11.25, 0.5), (15.0, 0.0), (900.0, 0.0)]
)
def test_r07_late_news_loses_its_weight(age_s: float, weight: float) -> None:
    snapshot = EngineSnapshot(8, 0, kv_capacity_tokens=500, at_s=100.0, every_s=5.0)
    load = corrected(snapshot, Sums(2), now_s=100.0 + age_s)
    assert load.others_in_flight == pytest.approx(2 + 8 * weight)
    assert load.kv_capacity_tokens == 500  # that does not change while nobody looks


def test_a_size_that_is_not_told_leaves_the_one_that_is_known() -> None:
    load = ReplicaLoad("p-0", kv_capacity_tokens=123)
    correct(load, EngineSnapshot(1, 0), NONE, 0.0)
    correct(load, None, NONE, 0.0)
    assert load.kv_capacity_tokens == 123
    assert others(load) == (0.0, 0.0, 0.0)


_NUMBERS = st.floats(0, 1e9)


@given(st.builds(Sums, _NUMBERS, _NUMBERS, _NUMBERS), st.builds(Sums, _NUMBERS, _NUMBERS, _NUMBERS), _NUMBERS, _NUMBERS)
def test_a_correction_never_makes_less_of_a_load(known: Sums, peers: Sums, running: float, waiting: float) -> None:
    snapshot = EngineSnapshot(running, waiting, 0.7, 10**9, 16, 55.0, 100.0, known=known, known_waiting=known.in_flight)
    load = corrected(snapshot, peers)
    assert load.others_in_flight >= peers.in_flight
    assert load.others_prefill_tokens >= peers.prefill_tokens
    assert load.others_context_tokens >= peers.context_tokens
