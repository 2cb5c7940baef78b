"""The load client against an engine whose times are known, and against engines that misbehave."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from loadtest import Arrivals, Ask, Failure, Load, Target, chat_asks, completion_asks, summarize
from loadtest.report import quantile
from tests.harness import engine_by_hand, engine_running, nobody, settled, whole


def asks(count: int, *, stream: bool = True, **fields: Any) -> Iterator[Ask]:
    return itertools.islice(chat_asks("m", stream=stream, max_tokens=8, **fields), count)


def behaving(
    count: int, hang_up_after_s: float | None = None, read_pause_s: float = 0.0, **fields: Any
) -> Iterator[Ask]:
    return (Ask(ask.body, None, hang_up_after_s, read_pause_s) for ask in asks(count, **fields))


def median(values: list[float]) -> float:
    return quantile(sorted(values), 0.5)


async def test_known_times_come_out_as_they_went_in() -> None:
    async with engine_running(ttft_s=0.08, itl_s=0.02) as engine:
        found = await Load(Target(engine.url), asks(20)).closed(4)
    assert len(found) == 20
    assert not found.failures()
    assert list(found.tokens) == list(found.chunks) == [8] * 20
    assert median(list(found.ttft_s)) == pytest.approx(0.08, abs=0.015)
    assert median(list(found.gap_s)) == pytest.approx(0.02, abs=0.005)
    assert median(list(found.tpot_s)) == pytest.approx(0.02, abs=0.005)
    assert median(list(found.e2e_s)) == pytest.approx(0.08 + 7 * 0.02, abs=0.03)
    assert len(found.gap_s) == 20 * 7


async def test_whole_answers_have_no_first_token() -> None:
    async with engine_running() as engine:
        found = await Load(Target(engine.url), asks(10, stream=False)).closed(2)
    report = summarize(found)
    assert (report.succeeded, report.ttft_ms, report.tokens) == (10, None, 80)


async def test_completions_are_measured_as_chats_are() -> None:
    async with engine_running() as engine:
        made = itertools.islice(completion_asks("m", stream=True, max_tokens=5), 6)
        found = await Load(Target(engine.url, "/v1/completions"), made).closed(2)
    assert list(found.chunks) == [5] * 6


async def test_a_closed_loop_keeps_so_many_under_way_on_so_many_connections() -> None:
    async with engine_running() as engine:
        engine.hold()
        load = Load(Target(engine.url), asks(30))
        running = asyncio.create_task(load.closed(5))
        await engine.arrived(5)
        assert load.under_way == 5
        assert engine.stats.open == 5
        engine.release()
        await running
        assert engine.stats.connections == 5


async def test_a_request_may_have_a_key_of_its_own() -> None:
    async with engine_running(api_key="k2") as engine:
        made = (Ask(ask.body, key) for ask, key in zip(asks(2), (None, "k2"), strict=True))
        found = await Load(Target(engine.url, key="k1"), made).closed(1)
    assert list(found.status) == [401, 200]


async def test_without_keep_alive_every_request_has_its_connection() -> None:
    async with engine_running() as engine:
        await Load(Target(engine.url, keep_alive=False), asks(12)).closed(3)
        assert engine.stats.connections == 12


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    async with engine_running() as engine:
        engine.hold()
        load = Load(Target(engine.url), asks(20))
        running = asyncio.create_task(load.open(Arrivals(500.0)))
        await engine.arrived(20)
        engine.release()
        found = await running
    assert len(found) == 20
    assert not found.failures()


async def test_an_open_loop_may_have_a_bound_and_tells_how_late_it_made_requests() -> None:
    async with engine_running(ttft_s=0.05) as engine:
        found = await Load(Target(engine.url), asks(8, stream=False)).open(Arrivals(1000.0, "constant"), most=2)
        assert engine.stats.connections == 2
    assert max(found.lag_s) > 0.1


async def test_a_load_ends_by_its_time() -> None:
    async with engine_running(ttft_s=0.01) as engine:
        closed = await Load(Target(engine.url), chat_asks("m", stream=False)).closed(2, duration_s=0.2)
        opened = await Load(Target(engine.url), chat_asks("m", stream=False)).open(Arrivals(100.0, "constant"), 0.2)
    assert 2 < len(closed) < 60
    assert len(opened) == pytest.approx(20, abs=1)


@pytest.mark.parametrize(
    ("fake", "failure", "status"),
    [
        ({"status": 503}, Failure.STATUS, 503),
        ({"die_after": 0}, Failure.CUT, 0),
        ({"die_after": 2}, Failure.CUT, 200),
        ({"malformed": "no-done"}, Failure.NO_DONE, 200),
        ({"malformed": "bad-json"}, Failure.MALFORMED, 200),
        ({"malformed": "garbage-status"}, Failure.MALFORMED, 0),
        ({"hang": "mid"}, Failure.TIMEOUT, 200),
        ({"sse": 'data: {"error": {"message": "x"}}\n\n'}, Failure.ERROR_EVENT, 200),
    ],
)
async def test_each_way_to_fail_has_its_name(fake: dict[str, object], failure: Failure, status: int) -> None:
    async with engine_running() as engine:
        found = await Load(Target(engine.url, timeout_s=0.2), asks(2, fake=fake)).closed(1)
    assert found.failures() == {failure: 2}
    assert list(found.status) == [status] * 2


async def test_a_port_without_a_server_is_a_failure_to_connect() -> None:
    with nobody() as url:
        found = await Load(Target(url), asks(3)).closed(1)
    assert found.failures() == {Failure.CONNECT: 3}


async def test_a_client_told_to_hang_up_frees_the_engine() -> None:
    async with engine_running() as engine:
        engine.hold()
        found = await Load(Target(engine.url), behaving(4, hang_up_after_s=0.02)).closed(4)
        assert found.failures() == {Failure.HUNG_UP: 4}
        await settled(lambda: engine.stats.open, "still open")


async def test_a_slow_reader_stalls_the_engine_and_gets_everything_in_the_end() -> None:
    async with engine_running(text="word" + " word" * 14_999, context_tokens=100_000, output_tokens=15_000) as engine:
        slow = (Ask(ask.body.replace(b'"max_tokens":8', b'"max_tokens":15000'), read_pause_s=0.005) for ask in asks(1))
        running = asyncio.create_task(Load(Target(engine.url), slow).closed(1))
        await settled(lambda: None if engine.stats.stalled or running.done() else "no back-pressure", "the reader")
        assert not running.done()
        found = await running
    assert not found.failures()
    assert found.chunks[0] == 15_000


async def test_an_answer_up_to_the_end_of_the_connection_is_whole() -> None:
    async with engine_by_hand() as engine:
        running = asyncio.create_task(Load(Target(engine.url), asks(1, stream=False)).closed(1))
        turn = await engine.turn()
        turn.send(b'HTTP/1.1 200 OK\r\n\r\n{"usage": {"completion_tokens": 2}}')
        turn.close()
        found = await running
    assert (found.failures(), list(found.tokens)) == ({}, [2])


async def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    async with engine_by_hand() as engine:
        running = asyncio.create_task(Load(Target(engine.url), asks(2, stream=False)).open(Arrivals(20.0, "constant")))
        first = await engine.turn()
        first.send(whole(b"{}"))
        await asyncio.sleep(0)
        first.send(b"HTTP/1.1 200 OK\r\n\r\n")
        await first.gone.wait()
        second = await engine.turn()
        second.send(b"HTTP/1.1 100 Continue\r\n\r\n", whole(b"{}"))
        found = await running
    assert len(found) == 2


async def command(*args: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest", *args), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_the_command_reports_as_a_table_or_as_json() -> None:
    async with engine_running(models=("m",)) as engine:
        common = (engine.url, "--model", "m", "--requests", "10", "--max-tokens", "4", "--slo-ttft", "5")
        status, text = await command(*common, "--concurrency", "2")
        assert (status, "10 succeeded" in text) == (0, True), text
        assert re.search(r"^TTFT +\d", text, re.M)
        status, text = await command(*common, "--rate", "200", "--no-stream", "--completions", "--json")
        report = json.loads(text)
    assert (status, report["succeeded"], report["tokens"], report["ttft_ms"]) == (0, 10, 40, None)


async def test_the_command_says_when_nothing_succeeded_and_refuses_what_is_no_url() -> None:
    with nobody() as url:
        status, text = await command(url, "-m", "m", "-n", "2")
    assert (status, "2 connect" in text) == (1, True)
    status, text = await command("localhost:8080", "-m", "m")
    assert (status, "http://" in text) == (2, True)
