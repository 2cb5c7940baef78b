"""Streams as they reach a client: kept alive, never buffered, with the right head (A11, A12)."""

from __future__ import annotations

import asyncio

import pytest

from tests.harness import (
    CHAT,
    DONE,
    FINISH,
    SSE_HEAD,
    Json,
    Watch,
    chat,
    config_of,
    engine_by_hand,
    engine_running,
    events_in,
    serving,
    settled,
    streamed,
    text_in,
    token,
)

QUICK = {"sse_keepalive_s": 0.1}


@pytest.mark.parametrize("head_first", [True, False], ids=["after the head", "before the head"])
async def test_a11_a_comment_keeps_a_stream_alive_before_its_first_token(head_first: bool) -> None:
    """Engines send their head at once or only with the first token: the client must not notice which."""
    async with (
        engine_by_hand() as engine,
        serving(config_of(engine.url, server=QUICK)) as server,
        server.asking(streamed()) as wire,
    ):
        turn = await engine.turn()
        if head_first:
            turn.send(SSE_HEAD)
        with Watch() as watch:
            head = await wire.read_head()
            assert await wire.read_chunk() == b": keepalive\n\n"
        assert watch.between(0.09, 0.2)
        assert head.status == 200
        assert await wire.read_chunk() == b": keepalive\n\n"
        if not head_first:
            turn.send(SSE_HEAD)
        turn.events(token("a"), FINISH, DONE)
        turn.end()
        assert (await wire.read_body()).removeprefix(b": keepalive\n\n") == token("a") + FINISH + DONE


async def test_a11_comments_come_between_tokens_and_sdks_ignore_them() -> None:
    async with (
        engine_by_hand() as engine,
        serving(config_of(engine.url, server=QUICK)) as server,
        server.asking(streamed()) as wire,
    ):
        turn = await engine.turn()
        turn.send(SSE_HEAD)
        turn.events(token("a"))
        await wire.read_head()
        body = await wire.read_chunk()
        for _ in range(2):
            with Watch() as watch:
                piece = await wire.read_chunk()
            assert piece == b": keepalive\n\n"
            assert watch.between(0.08, 0.2)
            body += piece
        turn.events(token("b"), FINISH, DONE)
        turn.end()
        body += await wire.read_body()
        assert text_in(body) == "ab"
        assert len(events_in(body)) == 4


async def test_a11_a_stream_that_flows_gets_no_comments() -> None:
    async with (
        engine_running(itl_s=0.02, output_tokens=15) as engine,
        serving(config_of(engine, server=QUICK)) as server,
    ):
        answer = await server.post(CHAT, streamed())
        assert b": keepalive" not in answer.content


async def test_a11_half_an_event_is_not_broken_by_a_comment() -> None:
    async with (
        engine_by_hand() as engine,
        serving(config_of(engine.url, server=QUICK)) as server,
        server.asking(streamed()) as wire,
    ):
        turn = await engine.turn()
        turn.send(SSE_HEAD)
        whole = token("abc")
        turn.events(token("x"), whole[:20])
        await wire.read_head()
        body = await wire.read_chunk() + await wire.read_chunk()
        turn.events(whole[20:] + FINISH + DONE)
        turn.end()
        body += await wire.read_body()
        assert text_in(body) == "xabc"


async def test_a11_a_call_that_does_not_stream_gets_no_comments() -> None:
    async with engine_running(ttft_s=0.3) as engine, serving(config_of(engine, server=QUICK)) as server:
        answer = await server.post(CHAT, chat())
        assert answer.json()["choices"]


async def test_a11_a_stream_kept_alive_may_still_move_to_another_replica() -> None:
    """A comment is no answer: what fails before the first token is tried elsewhere."""
    async with engine_by_hand() as first, engine_by_hand() as second:
        config = config_of(first.url, second.url, server=QUICK, policy="round_robin")
        async with serving(config) as server, server.asking(streamed()) as wire:
            turn = await first.turn()
            await wire.read_head()
            turn.close()
            turn = await second.turn()
            turn.send(SSE_HEAD)
            turn.events(token("b"), FINISH, DONE)
            turn.end()
            body = await wire.read_body()
            assert text_in(body) == "b"
            assert b"error" not in body


async def test_a11_an_error_after_a_comment_is_told_in_the_stream() -> None:
    async with (
        engine_by_hand() as engine,
        serving(config_of(engine.url, server=QUICK, attempts=1)) as server,
        server.asking(streamed()) as wire,
    ):
        turn = await engine.turn()
        await wire.read_head()
        turn.send(b"HTTP/1.1 500 Oops\r\ncontent-length: 2\r\n\r\n{}")
        *_, last = events_in(await wire.read_body())
        assert '"code":"upstream_error"' in last


async def test_a12_the_head_of_a_stream_forbids_buffering() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(CHAT, streamed(), accept_encoding="gzip, br")
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache, no-transform"
        assert answer.headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in answer.headers
        assert "content-length" not in answer.headers
        assert answer.headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize("asks_usage", [False, True])
async def test_a12_each_event_of_the_engine_is_one_flush(asks_usage: bool) -> None:
    """One goes out before the next comes in, and as a chunk of its own."""
    options: Json = {"stream_options": {"include_usage": True}} if asks_usage else {}
    async with (
        engine_by_hand() as engine,
        serving(config_of(engine.url)) as server,
        server.asking(streamed(**options)) as wire,
    ):
        turn = await engine.turn()
        turn.send(SSE_HEAD)
        for number in range(30):
            event = token(f"word {number}")
            turn.events(event)
            if not number:
                await wire.read_head()
            assert await wire.read_chunk() == event
        turn.events(FINISH, DONE)
        turn.end()
        assert await wire.read_body() == FINISH + DONE


async def test_a12_two_events_in_one_piece_leave_in_one_piece() -> None:
    async with (
        engine_by_hand() as engine,
        serving(config_of(engine.url)) as server,
        server.asking(streamed()) as wire,
    ):
        turn = await engine.turn()
        turn.send(SSE_HEAD)
        turn.events(token("a") + token("b"))
        await wire.read_head()
        assert await wire.read_chunk() == token("a") + token("b")
        turn.events(FINISH + DONE)
        turn.end()
        await wire.read_body()


async def test_a12_an_event_in_two_pieces_is_sent_when_it_is_whole() -> None:
    async with (
        engine_by_hand() as engine,
        serving(config_of(engine.url)) as server,
        server.asking(streamed()) as wire,
    ):
        turn = await engine.turn()
        turn.send(SSE_HEAD)
        whole = token("héllo")
        for cut in range(1, len(whole)):
            turn.events(whole[:cut])
            turn.events(whole[cut:])
        turn.events(FINISH, DONE)
        turn.end()
        await wire.read_head()
        assert await wire.read_body() == whole * (len(whole) - 1) + FINISH + DONE


async def test_a12_each_of_many_streams_gets_its_own_tokens() -> None:
    async with engine_running(itl_s=0.005, output_tokens=10) as engine, serving(config_of(engine)) as server:
        async with server.client() as client:
            bodies = [streamed(fake={"text": f"stream {n} says its own thing {n}"}) for n in range(40)]
            answers = await asyncio.gather(*(client.post(CHAT, json=body) for body in bodies))
        assert [text_in(a.content) for a in answers] == [f"stream {n} says its own thing {n}" for n in range(40)]
        await settled(lambda: engine.stats.open, "open")
