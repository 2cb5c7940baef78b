"""No request without an id, a line and a count, whoever answers it; and what a cut-off answer is called."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gateway import pipeline
from tests.harness import (
    CHAT,
    chat,
    config_of,
    engine_by_hand,
    engine_running,
    request_bytes,
    serving,
    settled,
    streamed,
    token,
)

KEYS = [{"name": "k", "key": "sk-known-key-1"}]


@pytest.mark.parametrize(
    ("sent", "status", "error"),
    [
        (b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n", 401, "missing_api_key"),
        (b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n", 404, "not_found"),
        (b"DELETE /v1/models HTTP/1.1\r\nhost: x\r\n\r\n", 405, "method_not_allowed"),
        (b"GET /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n", 405, "method_not_allowed"),
        (b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 99999\r\n\r\n", 413, "body_too_large"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", 400, "malformed_http"),
        (b"nonsense\r\n\r\n", 400, "malformed_http"),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 431, "headers_too_large"),
    ],
)
async def test_a_request_that_no_model_answers_is_told_of_as_well(sent: bytes, status: int, error: str) -> None:
    config = config_of("http://127.0.0.1:9", keys=KEYS, server={"max_body_bytes": 4096})
    async with serving(config) as server:
        async with server.connected() as wire:
            await wire.send(sent)
            answer = await wire.answer()
        assert answer.status == status
        (line,) = await server.records(1)
        assert (line["status"], line["error"]) == (status, error)
        assert answer.head.get("x-request-id") == line["request_id"]
        counted = [name for name in await server.metrics() if name.startswith("headrace_requests_total")]
        assert any(f'status="{status}"' in name and f'error="{error}"' in name for name in counted)


async def test_every_answer_has_one_id_and_a_sound_one_of_the_clients_is_kept() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server, server.client() as client:
        for path in ("/v1/models", "/health", "/metrics", "/docs", "/version"):
            answer = await client.get(path, headers={"x-request-id": "mine-1"})
            assert answer.headers.get_list("x-request-id") == ["mine-1"]
        for body in (chat(), streamed()):
            answer = await client.post(CHAT, json=body, headers={"x-request-id": "mine-2"})
            assert answer.headers.get_list("x-request-id") == ["mine-2"]
        unsound = await client.get("/v1/models", headers={"x-request-id": "bad id"})
        assert unsound.headers["x-request-id"].startswith("req_")


async def test_probes_leave_a_line_only_when_the_answer_is_bad() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server, server.client() as client:
        for path in ("/health", "/health/live", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 200
        server.gateway.engines_ready = False
        assert (await client.get("/health/ready")).status_code == 503
        (line,) = await server.records(1)
        assert (line["path"], line["status"]) == ("/health/ready", 503)


async def test_a_hit_of_the_cache_names_no_replica() -> None:
    async with (
        engine_running() as engine,
        serving(config_of(engine, cache={"enabled": True, "store": "memory"})) as server,
    ):
        await server.post(CHAT, chat())
        hit = await server.post(CHAT, chat())
        assert hit.headers["x-headrace-cache"] == "hit"
        assert "x-headrace-replica" not in hit.headers


async def test_a_failure_of_our_own_is_a_500_that_says_where_to_look(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(pipeline, "read_call", fail)
    async with engine_running() as engine, serving(config_of(engine)) as server:
        with caplog.at_level(logging.ERROR):
            answer = await server.post(CHAT, chat())
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal_error"
        assert answer.headers["x-request-id"] in caplog.text


async def test_an_answer_that_is_cut_off_at_the_drain_limit_is_called_so() -> None:
    async with engine_by_hand() as engine, serving(config_of(engine.url)) as server:
        async with server.asking(streamed()) as wire:
            turn = await engine.turn()
            turn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            turn.events(token("a"))
            await wire.read_head()
            await wire.read_chunk()
            await server.gateway.drain(0.05, 0.02)
            await server.gateway.cut_off()
            await asyncio.wait_for(turn.gone.wait(), 1)
        (line,) = await server.records(1)
        assert (line["status"], line["error"]) == (499, "shutting_down")


async def test_a_reader_that_is_stuck_is_called_so() -> None:
    options = {"write_timeout_s": 0.3}
    async with engine_by_hand() as engine, serving(config_of(engine.url, server=options)) as server:
        async with server.connected(receive_bytes=4096) as wire:
            await wire.send(request_bytes("POST", CHAT, streamed()))
            turn = await engine.turn()
            turn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(2000):
                turn.events(token("x" * 8000))
            await asyncio.wait_for(turn.gone.wait(), 10)
            await settled(lambda: server.gateway.server.open, "the stuck reader is still there")
        (line,) = await server.records(1)
        assert (line["status"], line["error"]) == (499, "write_timeout")
