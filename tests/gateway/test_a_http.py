"""HTTP/1.1 as clients really speak it: kept connections, pipelines, old versions, interim answers."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.harness import (
    CHAT,
    DONE,
    FINISH,
    SSE_HEAD,
    chat,
    config_of,
    engine_by_hand,
    engine_running,
    events_in,
    framed,
    request_bytes,
    serving,
    streamed,
    text_in,
    token,
    whole,
)

HEALTH = request_bytes("GET", "/health/live")


async def test_a_connection_carries_one_request_after_another() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server, server.connected() as wire:
        for number in range(6):
            body = streamed(fake={"text": f"n{number}"}) if number % 2 else chat(fake={"text": f"n{number}"})
            await wire.send(request_bytes("POST", CHAT, body))
            answer = await wire.answer()
            assert answer.status == 200
            assert answer.head.get("connection") is None
            assert f"n{number}".encode() in answer.body
            assert (answer.head.get("transfer-encoding") == "chunked") == bool(number % 2)
        assert engine.stats.connections == 1, "the engine's connection is kept as well"


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    """Also when the first takes longest, and whatever kind each of them is."""
    async with engine_running() as engine, serving(config_of(engine)) as server, server.connected() as wire:
        slow = streamed(fake={"text": "first", "ttft": 0.1})
        await wire.send(
            request_bytes("POST", CHAT, slow)
            + HEALTH
            + request_bytes("POST", CHAT, chat(fake={"text": "third"}))
            + request_bytes("GET", "/v1/nothing")
            + request_bytes("POST", CHAT, streamed(fake={"text": "fifth"}))
        )
        answers = [await wire.answer() for _ in range(5)]
        assert [a.status for a in answers] == [200, 200, 200, 404, 200]
        assert text_in(answers[0].body) == "first"
        assert json.loads(answers[1].body)["status"] == "ok"
        assert b"third" in answers[2].body
        assert text_in(answers[4].body) == "fifth"


async def test_a_hundred_pipelined_requests_are_all_answered() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server, server.connected() as wire:
        sending = asyncio.create_task(
            wire.send(b"".join(request_bytes("POST", CHAT, chat(fake={"text": f"n{n};"})) for n in range(100)))
        )
        for number in range(100):
            assert f"n{number};".encode() in (await wire.answer()).body
        await sending


async def test_a_request_in_single_bytes_is_read() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server, server.connected() as wire:
        for byte in request_bytes("POST", CHAT, chat()):
            await wire.send(bytes([byte]))
        assert (await wire.answer()).status == 200


async def test_a_chunked_request_body_is_put_together() -> None:
    body = json.dumps(chat(fake={"text": "whole"})).encode()
    head = request_bytes("POST", CHAT, b"", transfer_encoding="chunked").replace(b"content-length: 0\r\n", b"")
    async with engine_running() as engine, serving(config_of(engine)) as server, server.connected() as wire:
        pieces = b"".join(framed(body[n : n + 7]) for n in range(0, len(body), 7))
        await wire.send(head + pieces + b"0\r\n\r\n" + HEALTH)
        assert b"whole" in (await wire.answer()).body
        assert engine.requests[0].body == body
        assert (await wire.answer()).status == 200


async def test_expect_100_continue_is_answered_before_the_body() -> None:
    body = json.dumps(chat()).encode()
    async with engine_running() as engine, serving(config_of(engine)) as server, server.connected() as wire:
        await wire.send(request_bytes("POST", CHAT, body, expect="100-continue").removesuffix(body))
        assert (await wire.read_head()).raw == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(body)
        assert (await wire.answer()).status == 200


async def test_expect_100_continue_is_not_answered_for_a_body_that_is_too_large() -> None:
    async with (
        engine_running() as engine,
        serving(config_of(engine, server={"max_body_bytes": 2000})) as server,
        server.connected() as wire,
    ):
        head = request_bytes("POST", CHAT, b"", expect="100-continue", content_length="2001")
        await wire.send(head)
        assert (await wire.answer()).status == 413


async def test_a_pipelined_expectation_waits_for_its_turn() -> None:
    """An interim answer in the middle of another answer would be taken for a part of it."""
    body = json.dumps(chat()).encode()
    async with engine_by_hand() as engine, serving(config_of(engine.url)) as server, server.connected() as wire:
        await wire.send(request_bytes("POST", CHAT, streamed()))
        turn = await engine.turn()
        turn.send(SSE_HEAD)
        turn.events(token("a"))
        await wire.read_head()
        await wire.read_chunk()
        await wire.send(request_bytes("POST", CHAT, body, expect="100-continue"))
        turn.events(FINISH, DONE)
        turn.end()
        assert await wire.read_body() == FINISH + DONE
        turn = await engine.turn()
        turn.send(whole(b'{"choices":[{"message":{"content":"b"}}]}'))
        head = await wire.read_head()
        if head.status == 100:
            head = await wire.read_head()
        assert head.status == 200
        assert b'"b"' in await wire.read_body()


@pytest.mark.parametrize("keep_alive", [False, True])
async def test_an_http_1_0_client_gets_a_plain_body_and_the_end_of_the_connection(keep_alive: bool) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server, server.connected() as wire:
        extra = {"connection": "keep-alive"} if keep_alive else {}
        body = streamed(fake={"text": "old"})
        await wire.send(request_bytes("POST", CHAT, body, **extra).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        raw, _ = await wire.rest()
        head, _, rest = raw.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head
        assert text_in(rest) == "old"
        assert rest.endswith(DONE)
        assert events_in(rest)[-1] == "[DONE]"


async def test_an_http_1_0_client_may_keep_its_connection_for_whole_answers() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server, server.connected() as wire:
        asked = request_bytes("POST", CHAT, chat(), connection="keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        await wire.send(asked)
        answer = await wire.answer()
        assert answer.status == 200
        assert answer.head.get("connection") == "keep-alive"
        await wire.send(asked)
        assert (await wire.answer()).status == 200


async def test_connection_close_is_obeyed() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server, server.connected() as wire:
        await wire.send(request_bytes("POST", CHAT, streamed(), connection="close"))
        head = await wire.read_head()
        assert head.get("connection") == "close"
        rest, reset = await wire.rest()
        assert rest.endswith(DONE + b"\r\n0\r\n\r\n")
        assert not reset


async def test_head_of_a_model_route_has_no_body() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server, server.connected() as wire:
        await wire.send(request_bytes("HEAD", CHAT) + HEALTH)
        assert (await wire.answer(bodiless=True)).status == 405
        assert (await wire.answer()).status == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: +5\r\n\r\nhello",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n folded: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost : a\r\n\r\n",
        b"GET /health HTTP/9.9\r\nhost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_two_readers_could_take_in_two_ways_is_refused(raw: bytes) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server, server.connected() as wire:
        await wire.send(raw + HEALTH)
        got, _ = await wire.rest()
        assert got.startswith(b"HTTP/1.1 400 ")
        assert got.count(b"\r\ndate: ") == 1, "nothing behind it is read as a request"
        head, _, body = got.partition(b"\r\n\r\n")
        assert b"connection: close" in head
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
        assert engine.stats.requests == 0


async def test_an_offer_to_upgrade_is_declined_and_the_connection_goes_on() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server, server.connected() as wire:
        await wire.send(request_bytes("POST", CHAT, chat(), connection="Upgrade, HTTP2-Settings", upgrade="h2c"))
        assert (await wire.answer()).status == 200
        assert engine.stats.requests == 1


async def test_many_clients_at_once_each_get_their_answer() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server, server.client() as client:
        bodies = [chat(fake={"text": f"n{n}"}, stream=bool(n % 2)) for n in range(150)]
        answers = await asyncio.gather(*(client.post(CHAT, json=body) for body in bodies))
        assert all(f"n{n}" in answer.text for n, answer in enumerate(answers))
