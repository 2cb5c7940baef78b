"""How fast a queue moves, in virtual time."""

from __future__ import annotations

import pytest

from router.pace import PACE_S, Pace


def test_it_tells_the_rate_of_late() -> None:
    pace = Pace()
    assert pace.per_s(0.0) == 0.0
    assert pace.per_s(2.0) == pytest.approx(1 / (PACE_S * (1 - 0.8187)), rel=1e-3)
    for step in range(200):
        pace.left(2.0 + step / 4)
    assert pace.per_s(52.0) == pytest.approx(4.0, rel=0.05)
    for step in range(100):
        pace.left(52.0 + step)
    assert pace.per_s(152.0) == pytest.approx(1.0, rel=0.1)
    assert repr(pace) == "<Pace 9.5 in 10.0 s>"


def test_time_in_which_nobody_waited_does_not_count() -> None:
    pace = Pace()
    for step in range(1, 101):
        pace.left(step / 10)
    pace.resume(1000.0)
    assert pace.per_s(1000.0) == pytest.approx(10.0, rel=0.05)


def test_a_burst_is_spread_over_the_time_that_led_to_it() -> None:
    pace = Pace()
    pace.left(0.5, 300)
    assert 500.0 < pace.per_s(0.5) < 700.0
