"""Limits on the whole gateway: what is admitted, what each call is charged in the end, and what callers are told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from engines.fake import FakeEngine
from gateway.limits.lease import Stock
from tests.harness import (
    CHAT,
    EMBEDDINGS,
    Json,
    Server,
    chat,
    config_of,
    engine_running,
    nobody,
    serving,
    settled,
    streamed,
)
from tests.harness.wire import Answer

KEY = "key-for-tests"
PROMPT = "hello there"


def limited(*engines: Any, **limits: Any) -> Json:
    """A gateway with one key, whose organisation `acme` has these limits."""
    config = config_of(*engines, keys=[{"name": "team", "key": KEY, "tenant": "acme"}])
    return config | {"tenants": {"acme": {"limits": limits}}}


async def ask(server: Server, body: Json, path: str = CHAT, **headers: str) -> httpx.Response:
    return await server.post(path, body, authorization=f"Bearer {KEY}", **headers)


def told(answer: httpx.Response, unit: str) -> tuple[int, int, str]:
    """Limit, remaining and reset."""
    headers = answer.headers
    return (
        int(headers[f"x-ratelimit-limit-{unit}"]),
        int(headers[f"x-ratelimit-remaining-{unit}"]),
        headers[f"x-ratelimit-reset-{unit}"],
    )


def used(server: Server, unit: str = "tokens|minute") -> int:
    """Of acme's limit, as the worker's own store counts it."""
    counts = server.gateway.ledger.shared._store._counts  # type: ignore[attr-defined]
    total: int = counts._windows[f"tenant=acme|{unit}"]._total
    return total


async def comes_to(server: Server, units: int, unit: str = "tokens|minute") -> None:
    await settled(lambda: None if used(server, unit) == units else used(server, unit), f"not {units} {unit}")


# What is admitted


async def test_a04_of_500_parallel_calls_no_more_tokens_are_admitted_than_the_limit() -> None:
    """The engine holds them all, so that nothing is settled: each has reserved its prompt and 50 tokens."""
    async with engine_running() as engine, serving(limited(engine, tokens_per_minute=10_000)) as server:
        engine.hold()
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(_call(server)) for _ in range(500)]
            await settled(lambda: _undecided(calls, engine), "undecided", 20.0)
            admitted = engine.stats.held
            refused = [call.result() for call in calls if call.done()]
            each = used(server) // admitted
            assert admitted * each <= 10_000 < (admitted + 1) * each
            await comes_to(server, admitted * each)
            engine.release()
        assert {answer.status for answer in refused} == {429}
        assert len(refused) == 500 - admitted
        assert {answer.error["code"] for answer in refused} == {"tokens_limit"}
        spent = sum(_tokens(call.result()) for call in calls if call.result().status == 200)
        await comes_to(server, spent)


async def _call(server: Server) -> Answer:
    body = streamed(max_tokens=50, stream_options={"include_usage": True})
    async with server.asking(body, authorization=f"Bearer {KEY}") as wire:
        return await wire.answer()


def _undecided(calls: Sequence[asyncio.Task[Answer]], engine: FakeEngine) -> int | None:
    return len(calls) - sum(call.done() for call in calls) - engine.stats.held or None


def _tokens(answer: httpx.Response | Answer) -> int:
    """Prompt and answer, as the fake engine counts them."""
    body = answer.body if isinstance(answer, Answer) else answer.content
    match = re.search(rb'"total_tokens": ?(\d+)', body)
    assert match, body
    return int(match[1])


@pytest.mark.parametrize("stream", [False, True])
async def test_a04_a_call_is_charged_what_it_really_used(stream: bool) -> None:
    async with engine_running() as engine, serving(limited(engine, tokens_per_minute=10_000)) as server:
        body = chat(max_tokens=5_000, stream=stream, stream_options={"include_usage": True} if stream else None)
        answer = await ask(server, body)
        assert told(answer, "tokens")[1] < 5_000, "reserved"
        await comes_to(server, _tokens(answer))


async def test_a04_embeddings_are_charged_their_prompt() -> None:
    async with engine_running() as engine, serving(limited(engine, tokens_per_minute=10_000)) as server:
        answer = await ask(server, {"model": "m", "input": "some words to embed"}, EMBEDDINGS)
        await comes_to(server, answer.json()["usage"]["total_tokens"])


async def test_a04_a_client_that_hangs_up_is_charged_what_was_streamed() -> None:
    engine_hangs = engine_running(hang="mid", hang_after=3)
    async with engine_hangs as engine, serving(limited(engine, tokens_per_minute=10_000)) as server:
        async with server.asking(streamed(max_tokens=3_000), authorization=f"Bearer {KEY}") as wire:
            await wire.read_head()
            await wire.read_chunk()
            await engine.hung()
            assert used(server) >= 3_000
            wire.reset()
        record = (await server.records())[0]
        assert record["status"] == 499
        await settled(lambda: None if 0 < used(server) < 100 else used(server), "not settled")
        assert used(server) == record["tokens_in"] + record["tokens_out"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a04_a_client_that_hangs_up_before_the_answer_is_charged_its_prompt(stream: bool) -> None:
    """Or whoever always does so would use engines as much as it likes."""
    async with engine_running() as engine, serving(limited(engine, tokens_per_minute=10_000)) as server:
        engine.hold()
        body = chat("word " * 400, max_tokens=3_000, stream=stream)
        async with server.asking(body, authorization=f"Bearer {KEY}") as wire:
            await engine.arrived(1)
            assert used(server) >= 3_000
            wire.reset()
        record = (await server.records())[0]
        assert (record["status"], record.get("tokens_out", 0)) == (499, 0)
        assert record["tokens_in"] >= 400
        await comes_to(server, record["tokens_in"])
        engine.release()


@pytest.mark.parametrize(("told", "counted"), [(-5_000, 0), (10**18, 10**12)])
async def test_a04_an_engine_that_tells_nonsense_lets_nobody_past_a_limit(told: int, counted: int) -> None:
    usage = f'data: {{"choices":[],"usage":{{"prompt_tokens":{told},"completion_tokens":0}}}}\n\n'
    said = 'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'
    async with engine_running() as engine, serving(limited(engine, tokens_per_minute=10_000)) as server:
        answer = await ask(server, streamed(max_tokens=100, fake={"sse": f"{said}{usage}data: [DONE]\n\n"}))
        assert answer.status_code == 200
        await comes_to(server, counted)


async def test_a04_a_call_that_the_engine_refuses_gives_everything_back_but_the_request() -> None:
    limits = {"tokens_per_minute": 10_000, "requests_per_minute": 10, "parallel": 2}
    async with engine_running() as engine, serving(limited(engine, **limits)) as server:
        for number, status in enumerate((400, 429, 500), 1):
            answer = await ask(server, chat(max_tokens=500, fake={"status": status}))
            assert answer.status_code >= 400
            await comes_to(server, 0)
            await comes_to(server, number, "requests|minute")


async def test_a04_retries_share_one_reservation() -> None:
    async with engine_running() as engine:
        with nobody() as one, nobody() as two:
            config = limited(one, two, engine, tokens_per_minute=10_000, requests_per_minute=10)
            config["deployments"]["m"] |= {"policy": "round_robin", "retry_share": 1}
            async with serving(config) as server:
                answers = [await ask(server, chat(max_tokens=500)) for _ in range(3)]
                assert max(int(answer.headers["x-headrace-attempts"]) for answer in answers) > 1
                await comes_to(server, 3, "requests|minute")
                await comes_to(server, sum(map(_tokens, answers)))


async def test_an_answer_from_the_cache_is_charged_as_a_request_only() -> None:
    async with engine_running() as engine:
        config = limited(engine, tokens_per_minute=10_000, requests_per_minute=10) | {
            "cache": {"enabled": True, "store": "memory"}
        }
        async with serving(config) as server:
            first = await ask(server, chat(temperature=0))
            await comes_to(server, _tokens(first))
            second = await ask(server, chat(temperature=0))
            assert second.headers["x-headrace-cache"] == "hit"
            assert told(second, "requests")[1] == 8
            await comes_to(server, _tokens(first))
            await comes_to(server, 2, "requests|minute")


async def test_a03_a_refused_call_spends_nothing_of_any_limit() -> None:
    """The tokens do not suffice: neither the request nor the place is spent."""
    limits = {"tokens_per_minute": 1_000, "requests_per_minute": 5, "parallel": 3}
    async with engine_running() as engine, serving(limited(engine, **limits)) as server:
        first = await ask(server, chat("word " * 500, max_tokens=1))
        assert first.status_code == 200
        for _ in range(20):
            assert (await ask(server, chat(max_tokens=990))).status_code == 429
        await comes_to(server, 1, "requests|minute")
        await comes_to(server, _tokens(first))
        for _ in range(4):
            assert (await ask(server, chat(max_tokens=1))).status_code == 200


# What callers are told


async def test_a20_remaining_falls_strictly_and_the_refusal_says_when_to_come_again() -> None:
    async with engine_running() as engine:
        config = limited(engine, requests_per_minute=5, tokens_per_minute=100_000)
        async with serving(config) as server:
            answers = [await ask(server, chat(max_tokens=20, stream=bool(number % 2))) for number in range(5)]
            assert [answer.status_code for answer in answers] == [200] * 5
            assert [told(answer, "requests")[:2] for answer in answers] == [(5, left) for left in (4, 3, 2, 1, 0)]
            tokens = [told(answer, "tokens")[1] for answer in answers]
            assert tokens == sorted(tokens, reverse=True) and len(set(tokens)) == 5
            assert told(answers[0], "requests")[2] in ("1m0s", "1m1s")
            refused = await ask(server, chat())
            assert refused.status_code == 429
            assert told(refused, "requests")[:2] == (5, 0)
            error = refused.json()["error"]
            assert (error["type"], error["code"]) == ("rate_limit_error", "requests_limit")
            assert "Organisation 'acme' may send 5 requests in any 60 seconds" in error["message"]
            assert "tenants.acme.limits.requests_per_minute" in error["message"]
            assert "5 are used" in error["message"]
            assert 55 <= int(refused.headers["retry-after"]) <= 61
            assert 55_000 <= int(refused.headers["retry-after-ms"]) <= 61_000
            assert (await server.metrics())['headrace_limited_total{code="requests_limit",tenant="acme"}'] == 1


async def test_a20_of_several_limits_the_one_with_least_left_is_told() -> None:
    async with engine_running() as engine:
        config = limited(engine, requests_per_minute=100, requests_per_day=50)
        config["deployments"]["m"]["limits"] = {"requests_per_day": 3}
        async with serving(config) as server:
            assert told(await ask(server, chat()), "requests")[:2] == (3, 2)


async def test_a20_an_error_of_the_engine_tells_it_too() -> None:
    async with engine_running() as engine, serving(limited(engine, requests_per_minute=5)) as server:
        answer = await ask(server, chat(fake={"status": 400}))
        assert answer.status_code == 400
        assert told(answer, "requests")[:2] == (5, 4)


async def test_a_call_that_can_never_fit_is_not_to_be_tried_again() -> None:
    async with engine_running() as engine, serving(limited(engine, tokens_per_minute=100)) as server:
        answer = await ask(server, chat(max_tokens=1_000))
        assert answer.status_code == 429
        assert answer.headers["x-should-retry"] == "false"
        error = answer.json()["error"]
        assert error["code"] == "tokens_limit"
        assert "more than may ever be had: set a lower `max_tokens`" in error["message"]


async def test_money_that_is_spent_is_a_quota_and_not_to_be_tried_again() -> None:
    async with engine_running() as engine:
        config = limited(engine, usd_per_day="0.001") | {"prices": {"m": {"input": 1.0, "output": 100.0}}}
        async with serving(config) as server:
            assert (await ask(server, chat(max_tokens=5))).status_code == 200
            answer = await ask(server, chat(max_tokens=9))
            assert answer.status_code == 429
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
            assert "may spend 0.001 USD a day (UTC) (tenants.acme.limits.usd_per_day)" in error["message"]
            assert answer.headers["x-should-retry"] == "false"
            assert int(answer.headers["retry-after"]) <= 120


async def test_past_a_soft_limit_calls_go_on_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    async with engine_running() as engine:
        config = limited(engine, usd_per_day_soft="0.0001") | {"prices": {"m": {"input": 1.0, "output": 100.0}}}
        async with serving(config) as server:
            for _ in range(5):
                assert (await ask(server, chat(max_tokens=5))).status_code == 200
            said = [record.getMessage() for record in caplog.records if "soft limit" in record.getMessage()]
            assert said == ["limits: organisation 'acme' is past its soft limit (tenants.acme.limits.usd_per_day_soft)"]
            assert (await server.metrics())['headrace_past_soft_limit_total{tenant="acme"}'] >= 3


async def test_a20_over_limits_parallel_the_answer_names_it() -> None:
    async with engine_running() as engine, serving(limited(engine, parallel=1)) as server:
        engine.hold()
        async with server.asking(streamed(), authorization=f"Bearer {KEY}") as wire:
            await engine.arrived()
            answer = await ask(server, chat())
            assert answer.status_code == 429
            error = answer.json()["error"]
            assert error["code"] == "concurrency"
            assert "may have 1 request in flight at once (tenants.acme.limits.parallel); 1 are." in error["message"]
            engine.release()
            await wire.answer()
        assert (await ask(server, chat())).status_code == 200


async def test_a_prompt_or_an_answer_over_its_cap_is_refused_before_anything_is_reserved() -> None:
    limits = {"input_tokens": 50, "output_tokens": 20, "requests_per_minute": 5}
    async with engine_running() as engine, serving(limited(engine, **limits)) as server:
        answer = await ask(server, chat("word " * 200))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "input_tokens_limit")
        answer = await ask(server, chat(max_tokens=21))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "output_tokens_limit")
        answer = await ask(server, chat())
        assert answer.status_code == 200
        assert told(answer, "requests")[:2] == (5, 4)
        assert answer.json()["usage"]["completion_tokens"] <= 20


async def test_meters_that_nobody_meets_any_more_take_up_no_memory() -> None:
    async with engine_running() as engine, serving(limited(engine, requests_per_minute=5)) as server:
        await ask(server, chat())
        stocks: dict[str, Stock] = server.gateway.ledger.shared.stocks
        assert stocks
        await settled(lambda: stocks, "still known", 5.0)
