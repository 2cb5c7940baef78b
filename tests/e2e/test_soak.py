"""A13: hours of traffic do not make the gateway grow.

HEADRACE_SOAK_S says for how long, 600 seconds if it does not. Before it the worker meets, for as long as is needed to
find its capacity, as many requests at once as it will ever see here: what they take stays with the allocator, and a
burst that comes later would pass for a leak. The first third of the run is for warming up as well.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from loadtest import Arrivals, Failure, Load, Results, Target
from loadtest.report import quantile
from tests.bench.rig import KEY, cpu_s, long_run, rss_bytes
from tests.e2e.mix import engine_with_gateway, mixed_asks, under_way
from tests.gateway.supervised import Served, client
from tests.harness import Json

SOAK_S = float(os.environ.get("HEADRACE_SOAK_S", "600"))
CALIBRATION_S = min(60.0, SOAK_S / 5)
LIMIT_MB_PER_H = 1.0
SHARE_OF_CAPACITY = 0.7
MOST = 256
"""Requests under way at most: when other work takes the machine, they must not pile up."""
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(SOAK_S + 180)]

TRAFFIC = {
    "stream": 0.5,
    "whole": 0.34,
    "hang_up": 0.08,
    "engine_error": 0.02,
    "engine_death": 0.01,
    "engine_hang": 0.005,
    "nonsense": 0.01,
    "refused": 0.03,
    "slow_reader": 0.005,
}


@dataclass(frozen=True)
class Samples:
    """Resident memory of one process, about once a second."""

    at_s: list[float]
    mb: list[float]

    def settled(self) -> Samples:
        """The last two thirds."""
        first = len(self.at_s) // 3
        return Samples(self.at_s[first:], self.mb[first:])

    @property
    def mb_per_h(self) -> float:
        return slope(self.at_s, self.mb) * 3600

    def least_squares_mb_per_h(self) -> float:
        return statistics.linear_regression(self.at_s, self.mb).slope * 3600


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Theil-Sen: the median slope over all pairs. A single step does not bend it, as it does least squares."""
    pairs = itertools.combinations(zip(xs, ys, strict=True), 2)
    return statistics.median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in pairs)


def test_the_slope_of_a_line_is_found_through_steps_and_noise() -> None:
    xs = [float(x) for x in range(60)]
    assert slope(xs, [3.0 + 0.5 * x + (40.0 if x == 30 else 0.0) for x in xs]) == pytest.approx(0.5, abs=0.01)


def test_memory_rises_less_than_1_mb_an_hour_under_70_percent_load() -> None:
    """A13, extrapolated from the last two thirds of the run."""
    long_run(_soak(), SOAK_S + 120)


async def _soak() -> None:
    async with engine_with_gateway(workers=1) as (engine, gateway):
        capacity = await _capacity(gateway)
        load = Load(Target(gateway.url, key=KEY, timeout_s=60.0), mixed_asks(1, TRAFFIC))
        (worker,) = gateway.workers()
        before_s = cpu_s([worker])
        running = asyncio.create_task(load.open(Arrivals(capacity * SHARE_OF_CAPACITY), SOAK_S, MOST))
        samples, under_way_at = await _sampled(gateway, load, SOAK_S)
        found = await running
        facts: Json = {"capacity_per_s": round(capacity, 1), "under_way": _every_tenth(under_way_at)}
        facts["worker_cpu"] = round((cpu_s([worker]) - before_s) / SOAK_S, 3)
        _report(found, samples, facts)
        _judge(found, samples)
        async with client(gateway.url) as http:
            assert under_way((await http.get("/metrics")).text) == {}
        assert (await engine.stats())["open"] == 0
        assert gateway.workers() == [worker]


async def _capacity(gateway: Served) -> float:
    """Requests of this traffic per second that one worker does at most, with the engine and the load beside it."""
    load = Load(Target(gateway.url, key=KEY, timeout_s=60.0), mixed_asks(0, TRAFFIC))
    found = await load.closed(MOST, CALIBRATION_S)
    return len(found) / found.wall_s


async def _sampled(gateway: Served, load: Load, duration_s: float) -> tuple[dict[str, Samples], list[int]]:
    """The memory of each process, and the requests under way: what is held for them is no leak."""
    processes = {"supervisor": gateway.pid, "worker": gateway.workers()[0]}
    samples = {name: Samples([], []) for name in processes}
    under_way_at: list[int] = []
    began_s = time.monotonic()
    for number in range(1, int(duration_s) + 1):
        await asyncio.sleep(max(0.0, began_s + number - time.monotonic()))
        under_way_at.append(load.under_way)
        for name, pid in processes.items():
            samples[name].at_s.append(time.monotonic() - began_s)
            samples[name].mb.append(rss_bytes([pid]) / 1e6)
    return samples, under_way_at


def _every_tenth(values: Sequence[float]) -> list[float]:
    """The highest value in each tenth."""
    width = max(1, len(values) // 10)
    return [round(max(values[at : at + width]), 2) for at in range(0, len(values), width)]


def _report(found: Results, samples: dict[str, Samples], facts: Json) -> None:
    """What somebody wants to see of ten minutes, whether it passes or not."""
    line: Json = {
        "soak_s": SOAK_S,
        "requests": len(found),
        "requests_per_s": round(len(found) / found.wall_s, 1),
        "sent_late_p99_ms": round(quantile(sorted(found.lag_s), 0.99) * 1e3, 1),
        "failures": {failure.name.lower(): count for failure, count in found.failures().items()},
        **facts,
    }
    for name, all_of_it in samples.items():
        tail = all_of_it.settled()
        line[name] = {
            "first_mb": all_of_it.mb[0],
            "after_warm_up_mb": tail.mb[0],
            "last_mb": tail.mb[-1],
            "mb_per_h": round(tail.mb_per_h, 3),
            "least_squares_mb_per_h": round(tail.least_squares_mb_per_h(), 3),
            "every_tenth_mb": _every_tenth(all_of_it.mb),
        }
    print(json.dumps(line))


def _judge(found: Results, samples: dict[str, Samples]) -> None:
    failures = found.failures()
    unexpected = {kind: failures[kind] for kind in (Failure.CONNECT, Failure.TIMEOUT) if failures[kind]}
    assert not unexpected, failures
    for name, all_of_it in samples.items():
        rise = all_of_it.settled().mb_per_h
        assert rise < LIMIT_MB_PER_H, f"{name}: {rise:.2f} MB/h; the limit is {LIMIT_MB_PER_H:g}"
