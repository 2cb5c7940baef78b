"""How many replicas a pool should have."""

from __future__ import annotations

import pytest

from engines.scaler import Bounds, Scaler

BOUNDS = Bounds(least=1, most=4, target=8.0, idle_s=60.0)


@pytest.mark.parametrize(("in_flight", "wanted"), [(0, 1), (8, 1), (8.5, 2), (16, 2), (17, 3), (500, 4)])
def test_what_is_needed_is_there_at_once(in_flight: float, wanted: int) -> None:
    assert Scaler(BOUNDS).wanted(0.0, 1, in_flight) == wanted


def test_none_are_needed_where_none_may_be() -> None:
    assert Scaler(Bounds(least=0, most=2)).wanted(0.0, 0, 0.0) == 0


def test_one_goes_at_a_time_and_only_after_fewer_were_enough_for_long() -> None:
    scaler = Scaler(BOUNDS)
    assert scaler.wanted(0.0, 4, 3.0) == 4
    assert scaler.wanted(59.9, 4, 3.0) == 4
    assert scaler.wanted(60.0, 4, 3.0) == 3
    assert scaler.wanted(61.0, 3, 3.0) == 3
    assert scaler.wanted(120.0, 3, 3.0) == 2


def test_a_burst_begins_the_wait_anew() -> None:
    scaler = Scaler(BOUNDS)
    scaler.wanted(0.0, 2, 0.0)
    assert scaler.wanted(30.0, 2, 16.0) == 2
    assert scaler.wanted(61.0, 2, 0.0) == 2
    assert scaler.wanted(121.0, 2, 0.0) == 1


def test_more_than_may_be_go_at_once() -> None:
    assert Scaler(BOUNDS).wanted(0.0, 7, 0.0) == 4
