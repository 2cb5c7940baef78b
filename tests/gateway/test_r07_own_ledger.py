"""What the gateway itself has in flight decides; an engine whose metrics are late or missing is as good (R07)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.harness import CHAT, Turn, chat, config_of, engine_by_hand, engine_running, serving, settled, whole

OK = whole(b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}')


@pytest.mark.parametrize("kind", ["openai", "vllm", "llamacpp"])
async def test_r07_an_engine_without_metrics_or_health_gets_its_requests(kind: str) -> None:
    """Whatever is asked of it beside requests is never answered."""
    async with engine_by_hand() as engine:
        config = config_of(engine.url, engine={"kind": kind}, pool={"probe": {"every_s": 0.01, "idle_s": 0.01}})
        async with serving(config) as server:
            for _ in range(5):
                async with server.asking(chat()) as wire:
                    turn: Turn = await engine.turn()
                    assert turn.head.startswith("POST /v1/chat/completions ")
                    turn.send(OK)
                    assert (await wire.answer()).status == 200


async def test_r07_traffic_follows_what_is_in_flight_and_not_what_engines_say() -> None:
    async with (
        engine_running() as one,
        engine_running() as two,
        serving(config_of(one, two, policy="least_requests")) as server,
    ):
        one.hold()
        two.hold()
        async with server.asking(chat()) as held:
            await settled(
                lambda: [] if any(r.in_flight for r in server.gateway.replicas) else ["not sent"], "in flight"
            )
            busy = next(r for r in server.gateway.replicas if r.in_flight)
            (two if busy.name.endswith("-0") else one).release()
            for _ in range(6):
                answer = await server.post(CHAT, chat())
                assert answer.headers["x-headrace-replica"] != busy.name
            one.release()
            two.release()
            assert (await held.answer()).status == 200
        assert [r.in_flight for r in server.gateway.replicas] == [0, 0]


@asynccontextmanager
async def page_server(answer: bytes | None) -> AsyncIterator[tuple[int, asyncio.Semaphore]]:
    """The port of a server that gives one answer to everything, or none; and how often it was asked."""
    asked = asyncio.Semaphore(0)
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                asked.release()
                if answer is None:
                    await over.wait()
                    break
                writer.write(whole(answer))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        over.set()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    "page",
    [None, b"", b"\x00\xff not metrics {", b"vllm:num_requests_waiting 1e9\nvllm:kv_cache_usage_perc 50\n"],
    ids=["hung", "empty", "garbage", "absurd"],
)
async def test_r07_late_missing_or_absurd_metrics_refuse_no_request(page: bytes | None) -> None:
    async with page_server(page) as (port, asked), engine_running() as engine:
        scrape = {"every_s": 0.01, "port": port}
        async with serving(config_of(engine, engine={"kind": "vllm"}, pool={"scrape": scrape})) as server:
            async with asyncio.timeout(5):
                await asked.acquire()
            for _ in range(5):
                answer = await server.post(CHAT, chat())
                assert answer.status_code == 200
                assert answer.headers.get("x-headrace-queue-position") is None
