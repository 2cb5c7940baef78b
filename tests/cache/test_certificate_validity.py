"""A small part of `python -m tests.bench.cache_validity`, in every run."""

from __future__ import annotations

import pytest

from tests.bench.cache_validity import FAMILIES, run, summary

STREAMS = 3


@pytest.mark.parametrize("name", FAMILIES)
def test_no_more_streams_break_the_promise_than_it_allows(name: str) -> None:
    outcomes = [run(name, seed) for seed in range(STREAMS)]
    assert sum(outcome.breaks for outcome in outcomes) <= 1
    row = summary(outcomes)[name]
    assert row["streams"] == STREAMS
    assert row["strictly_of_many_hits"] <= 0.34


def test_nothing_is_served_where_nothing_is_safe() -> None:
    for name in ("hopeless", "by a hair"):
        assert sum(run(name, seed).hits > 0 for seed in range(6)) <= 1


def test_a_stream_is_the_same_for_the_same_seed() -> None:
    assert run("abrupt drift", 5) == run("abrupt drift", 5)


def test_where_much_is_safe_much_is_served() -> None:
    outcomes = [run("separable", seed) for seed in range(8)]
    assert any(outcome.hits > 0.3 * outcome.length for outcome in outcomes)
