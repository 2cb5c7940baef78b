"""Joined calls at the real gateway, in front of an engine that the test plays by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from tests.harness import (
    CHAT,
    DONE,
    FINISH,
    SSE_HEAD,
    HandEngine,
    Json,
    Server,
    Watch,
    chat,
    config_of,
    engine_by_hand,
    engine_running,
    serving,
    settled,
    streamed,
    token,
    whole,
)

ON: Json = {"enabled": True, "store": "memory"}
USAGE = (
    b'data: {"id":"x","object":"chat.completion.chunk","model":"m","choices":[],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'
)
REFUSED = whole(b'{"error":{"message":"down"}}', "500 Internal Server Error")


@asynccontextmanager
async def gateway(**settings: Json | int) -> AsyncIterator[tuple[HandEngine, Server]]:
    async with engine_by_hand() as engine, serving(config_of(engine.url, cache=ON, **settings)) as server:  # type: ignore[arg-type]
        yield engine, server


async def in_flight(server: Server, count: int) -> None:
    """Wait until there are so many calls."""
    while (await server.metrics()).get('headrace_in_flight{deployment="m"}') != count:
        await asyncio.sleep(0.005)


async def test_a_second_client_reads_along_while_the_first_is_answered() -> None:
    async with gateway() as (engine, server), server.asking(streamed()) as first:
        turn = await engine.turn()
        turn.send(SSE_HEAD)
        turn.events(token("a"))
        assert (await first.read_head()).get("x-headrace-cache") == "miss"
        assert await first.read_chunk() == token("a")
        async with server.asking(streamed()) as second, server.asking(chat()) as third:
            assert (await second.read_head()).get("x-headrace-cache") == "hit"
            assert await second.read_chunk() == token("a")
            turn.events(token("b"))
            for wire in (first, second):
                assert await wire.read_chunk() == token("b")
            turn.events(FINISH, USAGE, DONE)
            turn.end()
            for wire in (first, second):
                assert await wire.read_body() == FINISH + DONE
            answer = await third.answer()
            assert answer.head.get("x-headrace-cache") == "hit"
            assert msgspec.json.decode(answer.body)["choices"][0]["message"]["content"] == "ab"
        records = await server.records(3)
        assert sorted(record["cache"] for record in records) == ["hit", "hit", "miss"]
        assert {record["tokens_in"] for record in records} == {3}
        assert engine.waiting == 0


async def test_a_client_that_wants_usage_is_told_of_it_behind_one_that_does_not() -> None:
    async with gateway() as (engine, server), server.asking(streamed()) as first:
        turn = await engine.turn()
        turn.send(SSE_HEAD)
        turn.events(token("a"))
        await first.read_head()
        async with server.asking(streamed(stream_options={"include_usage": True})) as second:
            await second.read_head()
            turn.events(FINISH, USAGE, DONE)
            turn.end()
            assert await first.read_body() == token("a") + FINISH + DONE
            *_, usage, done = (await second.read_body()).removesuffix(b"\n\n").split(b"\n\n")
            assert msgspec.json.decode(usage[6:])["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
            assert done == b"data: [DONE]"


async def test_a_stream_goes_on_for_the_second_client_when_the_first_hangs_up() -> None:
    async with gateway() as (engine, server):
        async with server.asking(streamed()) as first:
            turn = await engine.turn()
            turn.send(SSE_HEAD)
            turn.events(token("a"))
            await first.read_head()
            second = server.asking(streamed())
            wire = await second.__aenter__()
            await wire.read_head()
        turn.events(token("b"), FINISH, USAGE, DONE)
        turn.end()
        assert await wire.read_body() == token("a") + token("b") + FINISH + DONE
        await second.__aexit__(None, None, None)
        records = await server.records(2)
        assert {record["status"] for record in records} == {200, 499}
        assert not turn.gone.is_set()
        assert (await server.post(CHAT, streamed())).headers["x-headrace-cache"] == "hit"


async def test_an_engine_is_let_go_when_the_last_of_them_hangs_up() -> None:
    async with gateway() as (engine, server):
        async with server.asking(streamed()) as first, server.asking(streamed()) as second:
            turn = await engine.turn()
            turn.send(SSE_HEAD)
            turn.events(token("a"))
            await first.read_head()
            await second.read_head()
            await first.hang_up()
            turn.events(token("b"))
            assert await second.read_chunk() == token("a")
            assert await second.read_chunk() == token("b")
            assert not turn.gone.is_set()
        async with asyncio.timeout(5):
            await turn.gone.wait()


async def test_a_kept_stream_comes_no_faster_than_it_came_if_that_is_wanted() -> None:
    gap_s, tokens = 0.02, 10
    async with (
        engine_running(itl_s=gap_s, output_tokens=tokens) as engine,
        serving(config_of(engine, cache=ON | {"pace": True})) as server,
    ):
        first = await server.post(CHAT, streamed())
        with Watch() as watch:
            second = await server.post(CHAT, streamed())
    assert second.headers["x-headrace-cache"] == "hit"
    assert second.text.count("data: ") == first.text.count("data: ")
    assert watch.elapsed_s > gap_s * tokens / 2


async def test_when_the_engine_fails_the_first_one_the_next_asks_again_and_the_others_wait() -> None:
    async with gateway(attempts=1) as (engine, server):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(server.post(CHAT, streamed())) for _ in range(4)]
            turn = await engine.turn()
            await in_flight(server, 4)
            turn.send(REFUSED)
            again = await engine.turn()
            assert engine.waiting == 0
            again.send(SSE_HEAD)
            again.events(token("a"), FINISH, DONE)
            again.end()
        answers = [task.result() for task in tasks]
        assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 502]
        assert sorted(a.headers["x-headrace-cache"] for a in answers if a.status_code == 200) == ["hit", "hit", "miss"]
        await settled(lambda: engine.waiting, "calls that nobody asked for")
