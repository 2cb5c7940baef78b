"""The exact response cache, switched on: a hit looks like an engine's answer, and nobody sees another's (A21)."""

from __future__ import annotations

import pytest

from tests.harness import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    Json,
    Server,
    chat,
    config_of,
    engine_running,
    serving,
    streamed,
)

ON: Json = {"enabled": True}
KEYS = [
    {"name": name, "key": f"key-for-{name}", "tenant": tenant} for name, tenant in (("a", "x"), ("b", "x"), ("c", "y"))
]


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer key-for-{name}"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat()),
        (CHAT, streamed()),
        (CHAT, streamed(stream_options={"include_usage": True})),
        (COMPLETIONS, {"model": "m", "prompt": "x", "stream": True}),
        (EMBEDDINGS, {"model": "m", "input": "x"}),
    ],
    ids=["chat", "stream", "stream with usage", "completions", "embeddings"],
)
async def test_a_hit_is_the_same_answer_and_asks_no_engine(path: str, body: Json) -> None:
    async with engine_running() as engine, serving(config_of(engine, cache=ON)) as server:
        first, second = await server.post(path, body), await server.post(path, body)
        assert second.content == first.content
        assert engine.stats.requests == 1
        assert (first.headers.get("x-headrace-cache"), second.headers["x-headrace-cache"]) == (None, "hit")
        for name in ("content-type", "cache-control", "x-accel-buffering", "transfer-encoding"):
            assert second.headers.get(name) == first.headers.get(name)
        miss, hit = await server.records(2)
        assert (miss["cache"], hit["cache"]) == ("miss", "hit")
        assert (miss["tokens_in"], miss.get("tokens_out")) == (hit["tokens_in"], hit.get("tokens_out"))
        metrics = await server.metrics()
        assert metrics['headrace_cache_requests_total{result="hit"}'] == 1


async def test_a21_another_tenant_never_hits_and_another_key_of_the_same_does() -> None:
    async with engine_running() as engine, serving(config_of(engine, cache=ON, keys=KEYS)) as server:
        for name, asked in (("a", 1), ("b", 1), ("c", 2), ("c", 2), ("a", 2)):
            assert (await server.post(CHAT, chat(), **key(name))).status_code == 200
            assert engine.stats.requests == asked


async def hits(server: Server, body: object, **headers: str) -> bool:
    answer = await server.post(CHAT, body, **headers)
    assert answer.status_code == 200
    return "x-headrace-cache" in answer.headers


@pytest.mark.parametrize(
    "other",
    [
        chat("other"),
        chat(temperature=0.0),
        chat(seed=1),
        chat(tools=[]),
        streamed(),
        chat(user="u"),
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
        assert second.content == first.content.replace(b": keepalive\n\n", b"")


async def test_an_answer_that_is_too_old_is_asked_for_again() -> None:
    async with engine_running() as engine, serving(config_of(engine, cache=ON | {"ttl_s": 1e-6})) as server:
        assert not await hits(server, chat())
        assert not await hits(server, chat())


async def test_a_hit_holds_no_place_and_needs_no_engine() -> None:
    async with engine_running() as engine, serving(config_of(engine, cache=ON, pool={"max_in_flight": 1})) as server:
        await hits(server, chat())
        engine.hold()
        async with server.asking(streamed()):
            await engine.arrived()
            assert await hits(server, chat())


async def test_the_cache_is_off_unless_switched_on() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        for _ in range(2):
            assert not await hits(server, chat())
        assert {record["cache"] for record in await server.records(2)} == {"bypass"}
