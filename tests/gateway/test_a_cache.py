"""The exact tier of the response cache, switched on: a hit looks like an engine's answer, and nobody sees another's
(A21)."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from tests.harness import (
    CHAT,
    COMPLETIONS,
    Json,
    Server,
    chat,
    config_of,
    engine_running,
    serving,
    streamed,
)

ON: Json = {"enabled": True, "store": "memory"}
KEYS = [
    {"name": name, "key": f"key-for-{name}", "tenant": tenant} for name, tenant in (("a", "x"), ("b", "x"), ("c", "y"))
]


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer key-for-{name}"}


def shape(answer: Json) -> Json:
    """All but what is new in each answer, and the usage, in which a hit is marked."""
    return {name: value for name, value in answer.items() if name not in ("id", "created", "usage")}


@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, chat()), (COMPLETIONS, {"model": "m", "prompt": "x", "max_tokens": 500})],
    ids=["chat", "completions"],
)
async def test_a_hit_is_the_same_answer_and_asks_no_engine(path: str, body: Json) -> None:
    async with engine_running() as engine, serving(config_of(engine, cache=ON)) as server:
        first, second = await server.post(path, body), await server.post(path, body)
        assert shape(second.json()) == shape(first.json())
        assert second.json()["id"] != first.json()["id"]
        usage = second.json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"]
        assert engine.stats.requests == 1
        assert (first.headers["x-headrace-cache"], second.headers["x-headrace-cache"]) == ("miss", "hit")
        assert second.headers["x-headrace-cache-id"]
        assert second.headers["age"] == "0"
        assert second.headers["content-type"] == first.headers["content-type"]
        miss, hit = await server.records(2)
        assert (miss["cache"], hit["cache"]) == ("miss", "hit")
        assert (miss["tokens_in"], miss.get("tokens_out")) == (hit["tokens_in"], hit.get("tokens_out"))
        metrics = await server.metrics()
        assert metrics['headrace_cache_requests_total{result="hit"}'] == 1


@pytest.mark.parametrize("options", [None, {"include_usage": True}])
async def test_a_stream_is_told_again_event_by_event(options: Json | None) -> None:
    body = streamed(stream_options=options) if options else streamed()
    async with engine_running() as engine, serving(config_of(engine, cache=ON)) as server:
        first, second = await server.post(CHAT, body), await server.post(CHAT, body)
        told, again = ([shape(event) for event in events(answer.text)] for answer in (first, second))
        assert again == told
        assert engine.stats.requests == 1
        for name in ("content-type", "cache-control", "x-accel-buffering", "transfer-encoding"):
            assert second.headers.get(name) == first.headers.get(name)


async def test_one_answer_serves_those_who_stream_and_those_who_do_not() -> None:
    async with engine_running() as engine, serving(config_of(engine, cache=ON)) as server:
        whole = (await server.post(CHAT, chat())).json()["choices"][0]["message"]["content"]
        pieces = events((await server.post(CHAT, streamed())).text)
        assert "".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces) == whole
        assert engine.stats.requests == 1


def events(text: str) -> list[Json]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def test_calls_that_ask_the_same_at_once_are_one_to_the_engine() -> None:
    async with engine_running(ttft_s=0.3) as engine, serving(config_of(engine, cache=ON)) as server:
        bodies = [chat(), streamed()] * 5
        answers = await asyncio.gather(*(server.post(CHAT, body) for body in bodies))
        assert [answer.status_code for answer in answers] == [200] * 10
        assert engine.stats.requests == 1
        records = await server.records(10)
        assert sorted(record["cache"] for record in records) == ["hit"] * 9 + ["miss"]
        assert (await server.metrics())["headrace_cache_joined_total"] == 9


async def test_who_asked_first_may_hang_up_and_the_others_get_the_answer() -> None:
    async with engine_running() as engine, serving(config_of(engine, cache=ON)) as server:
        engine.hold()
        async with server.asking(chat()):
            await engine.arrived()
            other = asyncio.create_task(server.post(CHAT, chat()))
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.1)
        engine.release()
        assert (await other).status_code == 200
        assert engine.stats.requests == 1


async def test_a21_another_tenant_never_hits_and_another_key_of_the_same_does() -> None:
    async with engine_running() as engine, serving(config_of(engine, cache=ON, keys=KEYS)) as server:
        for name, asked in (("a", 1), ("b", 1), ("c", 2), ("c", 2), ("a", 2)):
            assert (await server.post(CHAT, chat(), **key(name))).status_code == 200
            assert engine.stats.requests == asked


async def hits(server: Server, body: object, **headers: str) -> bool:
    answer = await server.post(CHAT, body, **headers)
    assert answer.status_code == 200
    return answer.headers["x-headrace-cache"] == "hit"


@pytest.mark.parametrize(
    "other",
    [
        chat("other"),
        chat(temperature=0.0),
        chat(seed=1),
        chat(tools=[{"type": "function", "function": {"name": "f"}}]),
        chat(max_tokens=7),
        chat(response_format={"type": "json_object"}),
        {"model": "m", "messages": [{"role": "system", "content": "hello there"}]},
    ],
)
async def test_a21_another_body_is_another_question(other: Json) -> None:
    async with engine_running() as engine, serving(config_of(engine, cache=ON)) as server:
        assert not await hits(server, chat())
        assert not await hits(server, other)
        assert await hits(server, chat())


async def test_a_caller_decides_whether_the_cache_is_read_and_written() -> None:
    async with engine_running() as engine, serving(config_of(engine, cache=ON)) as server:
        assert not await hits(server, chat(), cache_control="no-store")
        assert not await hits(server, chat()), "what was not to be stored was not"
        assert await hits(server, chat())
        assert not await hits(server, chat(), cache_control="no-store")
        assert not await hits(server, chat(), cache_control="no-cache")
        assert await hits(server, chat())


@pytest.mark.parametrize("directive", ["No-Store", "private, no-store", "NO-CACHE"])
async def test_cache_directives_are_read_whatever_their_case(directive: str) -> None:
    async with engine_running() as engine, serving(config_of(engine, cache=ON)) as server:
        await hits(server, chat())
        assert not await hits(server, chat(), cache_control=directive)


@pytest.mark.parametrize(
    "fake",
    [
        {"status": 500},
        {"status": 400},
        {"die_after": 2},
        {"malformed": "error-200"},
        {"sse": 'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'},
        {"sse": 'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"error":{"message":"x"}}\n\n'},
    ],
)
async def test_what_failed_is_not_kept(fake: Json) -> None:
    body = streamed(fake=fake)
    async with engine_running() as engine, serving(config_of(engine, cache=ON, attempts=1)) as server:
        await server.post(CHAT, body)
        await server.post(CHAT, body)
        assert engine.stats.requests == 2


async def test_what_a_client_left_half_read_is_not_kept() -> None:
    body = streamed(fake={"hang": "mid"})
    async with engine_running() as engine, serving(config_of(engine, cache=ON)) as server:
        async with server.asking(body) as wire:
            await wire.read_head()
            await wire.read_chunk()
            await engine.hung()
        await engine.aborted_at_least(1)
        async with server.asking(body):
            await engine.arrived(2)


async def test_comments_are_not_part_of_an_answer_that_is_kept() -> None:
    quick = {"sse_keepalive_s": 0.05}
    async with engine_running(ttft_s=0.2) as engine, serving(config_of(engine, cache=ON, server=quick)) as server:
        first, second = await server.post(CHAT, streamed()), await server.post(CHAT, streamed())
        assert b": keepalive" in first.content
        assert b": keepalive" not in second.content
        assert [shape(one) for one in events(second.text)] == [shape(one) for one in events(first.text)]


async def test_an_answer_that_is_too_old_is_asked_for_again() -> None:
    async with engine_running() as engine, serving(config_of(engine, cache=ON | {"ttl_s": 1e-6})) as server:
        assert not await hits(server, chat())
        assert not await hits(server, chat())


async def test_a_hit_holds_no_place_and_needs_no_engine() -> None:
    async with engine_running() as engine, serving(config_of(engine, cache=ON, pool={"max_in_flight": 1})) as server:
        await hits(server, chat())
        engine.hold()
        async with server.asking(streamed("something else")):
            await engine.arrived()
            assert await hits(server, chat())


async def test_a21_one_build_of_a_model_never_has_the_answers_of_another() -> None:
    """Half of the calls of a deployment go to each; each has its own answers, and both are kept."""
    async with engine_running() as one, engine_running() as other:
        config = config_of(one, cache=ON)
        config["pools"]["second"] = config["pools"]["p"] | {"urls": [other.url]}
        config["deployments"]["m"]["variants"]["canary"] = {"pools": ["second"]}
        async with serving(config) as server:
            said = [await server.post(CHAT, chat()) for _ in range(60)]
            kept = Counter(answer.headers.get("x-headrace-cache-id") for answer in said)
            assert one.stats.requests
            assert other.stats.requests
            misses = kept.pop(None)
            assert misses == one.stats.requests + other.stats.requests <= 20
            assert sum(kept.most_common(1)[0][1:]) < 55, "both are kept"


async def test_a21_tenants_share_an_answer_once_enough_of_them_were_given_it() -> None:
    keys = [{"name": name, "key": f"key-for-{name}", "tenant": name} for name in ("a", "b", "c", "d")]
    async with engine_running() as engine:
        config = config_of(engine, keys=keys)
        config["cache"] = ON
        config["deployments"]["m"]["cache"] = {"share": "all", "confirmations": 2}
        async with serving(config) as server:
            assert [await hits(server, chat(), **key(name)) for name in ("a", "b", "c")] == [False] * 3
            assert await hits(server, chat(), **key("d"))
            assert engine.stats.requests == 3


async def test_whoever_wants_only_what_is_kept_is_told_if_nothing_is() -> None:
    async with engine_running() as engine, serving(config_of(engine, cache=ON)) as server:
        answer = await server.post(CHAT, chat(), cache_control="only-if-cached")
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "not_cached")
        assert engine.stats.requests == 0
        await server.post(CHAT, chat())
        assert await hits(server, chat(), cache_control="only-if-cached")


async def test_the_cache_is_off_unless_switched_on() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        for _ in range(2):
            assert "x-headrace-cache" not in (await server.post(CHAT, chat())).headers
        assert {record["cache"] for record in await server.records(2)} == {"bypass"}
