"""What a client may cost: bodies, headers, slowness, and answers that nobody reads (A13)."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.http.server import HttpConnection
from tests.harness import (
    CHAT,
    Watch,
    chat,
    config_of,
    engine_running,
    framed,
    request_bytes,
    serving,
    settled,
    streamed,
)

SMALL = {"max_body_bytes": 2000}
MIB = 1024 * 1024


@pytest.mark.parametrize("size", [2001, 10**9])
async def test_a13_a_body_over_the_limit_is_refused_by_its_length(size: int) -> None:
    async with engine_running() as engine, serving(config_of(engine, server=SMALL)) as server:
        async with server.connected() as wire:
            await wire.send(request_bytes("POST", CHAT, b"", content_length=str(size)))
            answer = await wire.answer()
            assert answer.status == 413
            assert answer.error["code"] == "body_too_large"
            assert "2000" in answer.error["message"]
            assert "max_body_bytes" in answer.error["message"]
            assert answer.head.get("connection") == "close"
        assert engine.stats.requests == 0


async def test_a13_a_body_over_the_limit_is_refused_as_its_chunks_come() -> None:
    async with engine_running() as engine, serving(config_of(engine, server=SMALL)) as server:
        async with server.connected() as wire:
            head = request_bytes("POST", CHAT, b"", transfer_encoding="chunked")
            await wire.send(head.replace(b"content-length: 0\r\n", b"") + framed(b"x" * 1500))
            await wire.send(framed(b"x" * 1500))
            answer = await wire.answer()
            assert (answer.status, answer.error["code"]) == (413, "body_too_large")
        assert engine.stats.requests == 0


async def test_a13_a_body_at_the_limit_is_served() -> None:
    body = json.dumps(chat()).encode()
    body += b" " * (2000 - len(body))
    async with engine_running() as engine, serving(config_of(engine, server=SMALL)) as server:
        assert (await server.post(CHAT, body)).status_code == 200
        async with server.connected() as wire:
            head = request_bytes("POST", CHAT, b"", transfer_encoding="chunked").replace(b"content-length: 0\r\n", b"")
            await wire.send(head + framed(body[:7]) + framed(body[7:]) + b"0\r\n\r\n")
            assert (await wire.answer()).status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 5000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: 1\r\n" % n for n in range(300)) + b"\r\n",
        b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 200_000,
        b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"b" * 200_000,
    ],
    ids=["long value", "many lines", "long target", "endless value", "endless name"],
)
async def test_a13_headers_over_the_limit_are_refused(head: bytes) -> None:
    async with (
        engine_running() as engine,
        serving(config_of(engine, server={"max_header_bytes": 4096})) as server,
        server.connected() as wire,
    ):
        await wire.send(head)
        answer = await wire.answer()
        assert (answer.status, answer.error["code"]) == (431, "headers_too_large")
        assert answer.head.get("connection") == "close"


@pytest.mark.parametrize(
    ("sent", "setting"),
    [
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n", "header_timeout_s"),
        (b"P", "header_timeout_s"),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{", "body_timeout_s"),
    ],
    ids=["half a head", "one byte", "half a body"],
)
async def test_a13_a_request_that_does_not_arrive_is_given_up(sent: bytes, setting: str) -> None:
    async with (
        engine_running() as engine,
        serving(config_of(engine, server={setting: 0.2})) as server,
        server.connected() as wire,
    ):
        await wire.send(sent)
        with Watch() as watch:
            answer = await wire.answer()
        assert (answer.status, answer.error["type"]) == (408, "timeout_error")
        assert watch.within(1.0)


async def test_a13_a_head_that_drips_is_given_up() -> None:
    """Each byte resets nothing: the limit is for the whole head."""
    async with (
        engine_running() as engine,
        serving(config_of(engine, server={"header_timeout_s": 0.3})) as server,
        server.connected() as wire,
    ):

        async def drip() -> None:
            for byte in b"GET /health HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 100:
                await wire.send(bytes([byte]))
                await asyncio.sleep(0.05)

        task = asyncio.create_task(drip())
        with Watch() as watch:
            answer = await wire.answer()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert answer.status == 408
        assert watch.within(1.5)


async def test_a13_a_connection_without_a_request_is_closed() -> None:
    async with (
        engine_running() as engine,
        serving(config_of(engine, server={"idle_timeout_s": 0.2})) as server,
        server.connected() as wire,
    ):
        with Watch() as watch:
            assert await wire.rest() == (b"", False)
        assert watch.within(1.0)


async def test_a13_a_client_that_does_not_read_stops_the_engine_and_loses_nothing() -> None:
    text = "word " * 80_000
    async with engine_running(context_tokens=10**6, kv_tokens=10**6) as engine, serving(config_of(engine)) as server:
        async with server.connected(receive_bytes=4096) as wire:
            await wire.send(request_bytes("POST", CHAT, streamed(fake={"text": text})))
            await engine.arrived()
            seen = -1
            while engine.stats.events != seen:
                seen = engine.stats.events
                await asyncio.sleep(0.1)
            assert engine.stats.open == 1, "the engine waits"
            assert seen < 70_000
            (connection,) = server.gateway.server.open
            assert isinstance(connection, HttpConnection)
            held = connection._transport.get_write_buffer_size()
            assert held < 2 * MIB, f"{held} bytes in the gateway"
            await wire.read_head()
            body = await wire.read_body()
        assert body.endswith(b"data: [DONE]\n\n")
        assert body.count(b"word") == 80_000


async def test_a13_a_reader_that_is_stuck_is_cut_off_and_frees_the_engine() -> None:
    text = "word " * 300_000
    limits = {"write_timeout_s": 0.3}
    async with (
        engine_running(context_tokens=10**6, kv_tokens=10**6) as engine,
        serving(config_of(engine, server=limits)) as server,
    ):
        async with server.connected(receive_bytes=4096) as wire:
            await wire.send(request_bytes("POST", CHAT, streamed(fake={"text": text})))
            await engine.aborted_at_least(1)
            await settled(lambda: server.gateway.server.open, "still connected")
        (record,) = await server.records()
        assert record["status"] == 499


async def test_a13_a_stuck_reader_of_a_whole_answer_is_cut_off() -> None:
    body = {"choices": [{"message": {"content": "x" * (8 * MIB)}}]}
    limits = {"write_timeout_s": 0.3}
    async with (
        engine_running() as engine,
        serving(config_of(engine, server=limits)) as server,
        server.connected(receive_bytes=4096) as wire,
    ):
        await wire.send(request_bytes("POST", CHAT, chat(fake={"body": body})))
        await engine.idle()
        await settled(lambda: server.gateway.server.open, "still connected")


async def test_a13_a_stuck_reader_stalls_nobody_else() -> None:
    text = "word " * 100_000
    async with (
        engine_running(context_tokens=10**6, kv_tokens=10**6) as engine,
        serving(config_of(engine)) as server,
        server.connected(receive_bytes=4096) as wire,
    ):
        await wire.send(request_bytes("POST", CHAT, streamed(fake={"text": text})))
        await engine.arrived()
        for _ in range(20):
            with Watch() as watch:
                assert (await server.post(CHAT, streamed())).status_code == 200
            assert watch.within(1.0)
