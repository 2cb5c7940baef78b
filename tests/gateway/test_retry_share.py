"""Retries are at most a share of the requests, and a replica that asks for time gets it (A19, A20)."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalog import RETRY_RESERVE
from gateway.shares import Share
from tests.gateway.test_dispatch import Clock, Scripted, Stage
from tests.harness import CHAT, chat, config_of, engine_running, serving


@given(
    steps=st.lists(st.sampled_from(["earn", "spend", "wait"]), max_size=400), share=st.sampled_from([0.05, 0.1, 0.5])
)
def test_extra_requests_never_go_over_their_share_and_the_reserve(steps: list[str], share: float) -> None:
    bucket = Share(share, reserve=3.0)
    earned = spent = waited_s = 0
    for step in steps:
        if step == "earn":
            bucket.earn()
            earned += 1
        elif step == "wait":
            waited_s += 1
        else:
            spent += bucket.spend(100.0 + waited_s)
        assert spent <= 3.0 + earned * share + waited_s + 1e-6


def test_without_a_reserve_every_twentieth_request_may_have_a_twin() -> None:
    bucket = Share(0.05)
    sent = 0
    for second in range(1000):
        bucket.earn()
        sent += bucket.spend(float(second))
    assert sent == 50
    assert repr(bucket) == "<Share 0.05 tokens=0.00>"


def test_that_nothing_is_left_is_worth_a_word_once_a_minute() -> None:
    bucket = Share(0.1)
    assert [bucket.worth_a_word(now_s) for now_s in (5.0, 6.0, 64.9, 65.0, 66.0)] == [True, False, False, True, False]


def test_what_a_calm_saves_up_is_bounded() -> None:
    bucket = Share(1.0)
    for _ in range(100_000):
        bucket.earn()
    assert sum(bucket.spend(0.0) for _ in range(100_000)) == 1000


async def test_when_the_share_is_used_up_the_first_failure_is_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    """A19: also that it is told of, once."""
    caplog.set_level(logging.WARNING)
    async with (
        engine_running(error_rate=1.0, error_status=429) as full,
        engine_running(error_rate=1.0, error_status=503) as busy,
        serving(config_of(full, busy, retry_share=0.1)) as server,
        server.client() as client,
    ):
        total = 60
        for _ in range(total):
            assert (await client.post(CHAT, json=chat())).status_code in (429, 503)
        asked = full.stats.requests + busy.stats.requests
        assert total + RETRY_RESERVE <= asked <= total + RETRY_RESERVE + 0.1 * total + 2
        found = await server.metrics()
        sent = found['headrace_retries_total{deployment="m",retry="sent"}']
        denied = found['headrace_retries_total{deployment="m",retry="denied"}']
        assert (sent, denied) == (asked - total, total - sent)
        records = await server.records(total)
        assert sum(record.get("retry_denied", False) for record in records) == denied
    told = [record.message for record in caplog.records if "retry_share" in record.message]
    assert len(told) == 1
    assert "share of 0.1" in told[0]


async def test_with_a_share_of_nothing_nothing_is_retried() -> None:
    async with (
        engine_running(error_rate=1.0) as one,
        engine_running(error_rate=1.0) as two,
        serving(config_of(one, two, retry_share=0)) as server,
    ):
        assert (await server.post(CHAT, chat())).status_code == 502
        assert one.stats.requests + two.stats.requests == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_a20_a_replica_that_asks_for_time_is_not_asked_before_it_has_passed(status: int) -> None:
    async with (
        engine_running() as one,
        engine_running() as two,
        serving(config_of(one, two)) as server,
    ):
        clock, replicas = server.gateway.pipeline.clock, server.gateway.replicas
        await server.post(CHAT, chat(fake={"retry_after": 30, "status": status}))
        assert (one.stats.requests, two.stats.requests) == (1, 1)
        assert all(25 < r.rests_until_s - clock.monotonic() <= 30 for r in replicas)
        answer = await server.post(CHAT, chat())
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (503, "server_is_overloaded")
        assert "asked to be left alone" in error["message"]
        assert 25 <= int(answer.headers["retry-after"]) <= 30
        assert (one.stats.requests, two.stats.requests) == (1, 1)
        assert all(r.breaker.allows(clock.monotonic()) for r in replicas), "full is not broken"


async def test_a20_the_answer_names_the_shortest_wait(clock: Clock) -> None:
    stage = Stage(clock, Scripted("a", clock, 200), Scripted("b", clock, 200))
    one, two = stage.replicas
    one.rests_until_s, two.rests_until_s = clock.now_s + 40.0, clock.now_s + 7.0
    error = await stage.run()
    assert error is not None
    assert (error.code, error.retry_after_s) == ("server_is_overloaded", 7.0)
    clock.now_s += 7.0
    assert await stage.run() is None
    assert stage.asked == [0, 1]


async def test_a20_a_failure_that_ends_the_search_names_the_shortest_wait_as_well(clock: Clock) -> None:
    stage = Stage(clock, Scripted("a", clock, 503), Scripted("b", clock, 503))
    stage.replicas[1].rests_until_s = clock.now_s + 0.5
    error = await stage.run()
    assert error is not None
    assert (error.status, error.retry_after_s) == (503, 0.5)


async def test_a_full_replica_that_says_nothing_of_waiting_is_asked_last(clock: Clock) -> None:
    """It refuses fast, and would draw all traffic from those that work."""
    stage = Stage(clock, Scripted("a", clock, 503), Scripted("b", clock, 200))
    for _ in range(6):
        assert await stage.run() is None
    assert stage.asked == [1, 6]
    clock.now_s += 0.3
    assert await stage.run() is None
    assert sum(stage.asked) in (8, 9)


@pytest.fixture
def clock() -> Clock:
    return Clock()
