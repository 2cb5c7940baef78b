"""Each time limit fires within 100 ms of its value, streaming or not, on every route (A10)."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.http.server import HttpConnection
from tests.harness import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    SSE_HEAD,
    Json,
    Watch,
    chat,
    config_of,
    engine_by_hand,
    engine_running,
    events_in,
    no_answer,
    request_bytes,
    serving,
    settled,
    streamed,
    token,
)

LIMIT_S = 0.3
SLACK_S = 0.1
OFF: Json = {"connect_s": 5.0, "ttft_s": None, "idle_s": None, "total_s": None}
ROUTES: dict[str, tuple[str, Json]] = {
    "chat": (CHAT, chat()),
    "chat-stream": (CHAT, streamed()),
    "completions": (COMPLETIONS, {"model": "m", "prompt": "x"}),
    "completions-stream": (COMPLETIONS, {"model": "m", "prompt": "x", "stream": True}),
    "embeddings": (EMBEDDINGS, {"model": "m", "input": "x"}),
    "tokenize": ("/tokenize", {"model": "m", "prompt": "x"}),
    "detokenize": ("/detokenize", {"model": "m", "tokens": [1]}),
}
PHASES = ("connect", "ttft", "total")


def on_time(watch: Watch, limit_s: float = LIMIT_S) -> bool:
    return watch.between(limit_s - 0.005, limit_s + SLACK_S)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("route", ROUTES)
async def test_a10_each_limit_before_the_first_byte_fires_on_every_route(route: str, phase: str) -> None:
    path, body = ROUTES[route]
    limits = OFF | {f"{phase}_s": LIMIT_S}
    with no_answer() as silent:
        async with engine_by_hand() as engine:
            url = silent if phase == "connect" else engine.url
            async with serving(config_of(url, timeouts=limits, attempts=1)) as server:
                with Watch() as watch:
                    answer = await server.post(path, body)
                error = answer.json()["error"]
                assert (answer.status_code, error["type"], error["code"]) == (504, "timeout_error", f"{phase}_timeout")
                assert f"{LIMIT_S:g} s" in error["message"]
                assert on_time(watch), watch.elapsed_s


@pytest.mark.parametrize("phase", ["ttft", "total", "idle"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a10_each_limit_fires_after_the_engines_head(stream: bool, phase: str) -> None:
    hang = "mid" if phase == "idle" else "after"
    async with engine_running(hang=hang) as engine:
        limits = OFF | {f"{phase}_s": LIMIT_S}
        async with serving(config_of(engine, timeouts=limits, attempts=1)) as server:
            with Watch() as watch:
                answer = await server.post(CHAT, chat(stream=stream))
            assert on_time(watch), watch.elapsed_s
            if stream and phase == "idle":
                *_, last = events_in(answer.content)
                assert json.loads(last)["error"]["code"] == "idle_timeout"
            else:
                assert (answer.status_code, answer.json()["error"]["code"]) == (504, f"{phase}_timeout")
            assert engine.stats.aborted == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a10_the_total_limit_ends_an_answer_that_keeps_coming(stream: bool) -> None:
    async with engine_by_hand() as engine:
        limits = OFF | {"total_s": LIMIT_S, "idle_s": 0.2}
        async with serving(config_of(engine.url, timeouts=limits)) as server, server.connected() as wire:
            with Watch() as watch:
                await wire.send(request_bytes("POST", CHAT, chat(stream=stream)))
                turn = await engine.turn()
                turn.send(SSE_HEAD if stream else b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n")
                for _ in range(4):
                    await asyncio.sleep(0.05)
                    turn.send(*([] if stream else [b" "]))
                    turn.events(*([token("a")] if stream else []))
                answer = await wire.answer()
            assert on_time(watch), watch.elapsed_s
            assert b"total_timeout" in answer.body
            assert b"[DONE]" not in answer.body


async def test_a10_the_idle_limit_counts_from_the_last_piece() -> None:
    async with engine_by_hand() as engine:
        limits = OFF | {"idle_s": LIMIT_S}
        config = config_of(engine.url, timeouts=limits)
        async with serving(config) as server, server.asking(streamed()) as wire:
            turn = await engine.turn()
            turn.send(SSE_HEAD)
            for _ in range(3):
                turn.events(token("a"))
                await (wire.read_chunk() if wire.head.status else wire.read_head())
                await asyncio.sleep(0.2)
            turn.events(token("b"))
            with Watch() as watch:
                body = await wire.read_body()
            assert on_time(watch), watch.elapsed_s
            assert b"idle_timeout" in body


async def test_a10_a19_the_total_limit_covers_connecting() -> None:
    with no_answer() as silent:
        async with serving(config_of(silent, timeouts=OFF | {"total_s": LIMIT_S})) as server:
            with Watch() as watch:
                answer = await server.post(CHAT, chat())
            assert answer.status_code == 504
            assert on_time(watch), watch.elapsed_s


async def test_a10_a19_the_total_limit_covers_retries() -> None:
    with no_answer() as silent:
        async with engine_running(hang="before") as engine:
            limits = OFF | {"connect_s": 0.2, "total_s": 0.4}
            async with serving(config_of(silent, engine, timeouts=limits, policy="round_robin")) as server:
                with Watch() as watch:
                    answer = await server.post(CHAT, chat())
                assert answer.json()["error"]["code"] == "total_timeout"
                assert on_time(watch, 0.4), watch.elapsed_s


async def test_a10_a_client_that_reads_slowly_is_not_the_engines_silence() -> None:
    """While the gateway itself does not read, an idle limit says nothing about the engine."""
    limits = OFF | {"idle_s": LIMIT_S}
    async with engine_running(output_tokens=8000, context_tokens=20000, text="x" * 400) as engine:
        big = "word " * 400_000
        async with serving(config_of(engine, timeouts=limits)) as server:
            async with server.connected(receive_bytes=4096) as wire:
                await wire.send(request_bytes("POST", CHAT, streamed(fake={"text": big})))
                (connection,) = server.gateway.server.open
                assert isinstance(connection, HttpConnection)
                await settled(lambda: "reads" if not connection._unread_since_s else None, "no back-pressure", 8.0)
                await asyncio.sleep(LIMIT_S * 2)
                await wire.read_head()
                body = await wire.read_body()
            assert body.endswith(b"data: [DONE]\n\n"), body[-300:]
