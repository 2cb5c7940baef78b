"""Runs in several processes."""

from __future__ import annotations

from gateway.simulator.batch import SMALL, Batch, run_all
from gateway.simulator.plan import Setting
from tests.gateway.simulator import conversations

SETTING = Setting((1.0, 1.0), (0.0, 0.0))


def test_the_number_of_processes_changes_nothing() -> None:
    names = ["round_robin", "random", "marginal_latency"]
    batch = Batch(conversations(20, 2), {name: SETTING.plan(name) for name in names})
    told: list[int] = []
    alone = run_all(batch, seeds=3, processes=1, done=lambda: told.append(1))
    spread = run_all(batch, seeds=3, processes=2, done=lambda: told.append(2))
    assert alone == spread
    assert list(spread) == names
    assert (told.count(1), told.count(2)) == (9, 9)


def test_little_is_done_in_this_process() -> None:
    trace = conversations(20, 2)
    assert len(trace.requests) * 2 < SMALL
    batch = Batch(trace, {"random": SETTING.plan("random")})
    assert run_all(batch, seeds=2) == run_all(batch, seeds=2, processes=1)
