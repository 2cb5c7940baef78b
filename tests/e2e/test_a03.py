"""A03: whatever happens to requests, nothing stays counted as under way."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from loadtest import Failure, Load, Target, chat_asks
from tests.bench.rig import KEY, long_run
from tests.e2e.mix import engine_with_gateway, mixed_asks, under_way
from tests.gateway.supervised import client

LIMIT_S = 240.0
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(LIMIT_S + 30)]

TROUBLE = {
    "stream": 0.1,
    "whole": 0.1,
    "hang_up": 0.4,
    "engine_error": 0.1,
    "engine_death": 0.1,
    "engine_hang": 0.05,
    "nonsense": 0.05,
    "refused": 0.1,
}
SETTLE_S = 5.0


async def settled_metrics(url: str) -> dict[str, float]:
    """The gauges that still count something after a while; empty as soon as there is none."""
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        async with client(url) as http:
            found = under_way((await http.get("/metrics")).text)
        if not found or time.monotonic() > deadline_s:
            return found
        await asyncio.sleep(0.1)


def test_after_ten_thousand_cancels_timeouts_and_errors_every_gauge_is_back_to_zero() -> None:
    """A03, on two workers."""
    long_run(_ten_thousand(), LIMIT_S)


async def _ten_thousand() -> None:
    async with engine_with_gateway(workers=2) as (engine, gateway):
        load = Load(Target(gateway.url, key=KEY, timeout_s=30.0), itertools.islice(mixed_asks(1, TROUBLE), 10_000))
        found = await load.closed(64)
        failures = found.failures()
        assert len(found) == 10_000
        assert failures[Failure.HUNG_UP] > 2000, failures
        assert failures[Failure.STATUS] > 1000, failures
        assert failures[Failure.ERROR_EVENT] > 200, failures
        assert not failures[Failure.CONNECT] and not failures[Failure.TIMEOUT], failures
        assert await settled_metrics(gateway.url) == {}
        assert (await engine.stats())["open"] == 0


def test_every_permit_of_a_key_is_back_after_cancels_timeouts_and_errors() -> None:
    """A03: exactly as many requests as the key may have in flight are let in afterwards."""
    long_run(_permits(), LIMIT_S)


async def _permits() -> None:
    permits = 20
    async with engine_with_gateway(workers=1, max_parallel=permits) as (_, gateway):
        target = Target(gateway.url, key=KEY, timeout_s=30.0)
        found = await Load(target, itertools.islice(mixed_asks(2, TROUBLE), 2000)).closed(permits + 10)
        assert 429 in found.status, "the limit was never met"
        assert await settled_metrics(gateway.url) == {}
        asks = itertools.islice(chat_asks("m", stream=False, fake={"ttft": 0.25}), permits + 5)
        afterwards = await Load(target, asks).closed(permits + 5)
        assert sorted(afterwards.status) == [200] * permits + [429] * 5
        assert await settled_metrics(gateway.url) == {}
