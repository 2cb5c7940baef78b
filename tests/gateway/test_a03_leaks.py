"""After any mix of cancels, time-outs and errors nothing is held (A03)."""

from __future__ import annotations

import asyncio
import random

import pytest

from engines.fake import FakeEngine
from router.breaker import Breaker
from tests.harness import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    Json,
    Server,
    chat,
    config_of,
    engine_running,
    gauges,
    nobody,
    serving,
    settled,
)

FAULTS: list[Json] = [
    {},
    {},
    {},
    {},
    {"hang": "before"},
    {"hang": "after"},
    {"hang": "mid"},
    {"status": 400},
    {"status": 429},
    {"status": 500},
    {"status": 503},
    {"die_after": 0},
    {"die_after": 2, "die_how": "fin"},
    {"die_after": 2},
    {"malformed": "bad-chunk"},
    {"malformed": "bad-json"},
    {"malformed": "no-done"},
    {"malformed": "garbage-status"},
    {"malformed": "wrong-length"},
    {"split": "wire"},
    {"ttft": 0.01, "itl": 0.002},
]
LIMITS = {"connect_s": 1.0, "ttft_s": 0.06, "idle_s": 0.06, "total_s": 0.2}


async def one_call(server: Server, rng: random.Random) -> None:
    fake = dict(rng.choice(FAULTS))
    asked: tuple[str, Json] = rng.choice(
        [
            (CHAT, chat(stream=rng.random() < 0.7, n=rng.choice([1, 1, 2]))),
            (COMPLETIONS, {"model": "m", "prompt": "x", "stream": rng.random() < 0.7}),
            (EMBEDDINGS, {"model": "m", "input": "x"}),
        ]
    )
    path, fields = asked
    body: Json | bytes = fields | {"fake": fake}
    if rng.random() < 0.05:
        body = b"{" if rng.random() < 0.5 else fields | {"model": "unknown"}
    patience_s = rng.choice([None, None, 0.0, rng.random() * 0.01, rng.random() * 0.08])
    async with server.asking(body, path, authorization="Bearer key-for-tests") as wire:
        try:
            async with asyncio.timeout(patience_s):
                await wire.answer()
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            pass
        if rng.random() < 0.3:
            wire.reset()


async def run_many(server: Server, count: int, parallel: int, seed: int) -> None:
    rng = random.Random(seed)
    numbers = iter(range(count))

    async def caller() -> None:
        for _ in numbers:
            await one_call(server, rng)

    async with asyncio.TaskGroup() as group:
        for _ in range(parallel):
            group.create_task(caller())


def working(engine: FakeEngine) -> object:
    stats = engine.stats
    return stats if stats.open or stats.running or stats.waiting or stats.held else None


async def nothing_is_held_after(count: int, parallel: int, seed: int) -> None:
    keys = [{"name": "k", "key": "key-for-tests", "max_parallel": parallel - 2}]
    with nobody() as dead:
        async with engine_running() as one, engine_running() as two, engine_running() as three:
            config = config_of(one, two, dead, three, keys=keys, timeouts=LIMITS, retry_share=1)
            async with serving(config) as server:
                if seed % 3:
                    # Else the breakers, soon open, would keep most calls from the engines.
                    for replica in server.gateway.replicas:
                        replica.breaker = Breaker(threshold=10**9, most_failing=1.0)
                await run_many(server, count, parallel, seed)
                for engine in (one, two, three):
                    await settled(lambda engine=engine: working(engine), "an engine still works")  # type: ignore[misc]
                await settled(lambda: [v for v in gauges(server.gateway).values() if v], "a gauge is not zero")
                reached = sum(engine.stats.requests for engine in (one, two, three))
                assert reached > count // 2 or not seed % 3
                stats = [engine.stats for engine in (one, two, three)]
                assert all(each.aborted and each.faulted for each in stats) or not seed % 3
                metrics = await server.metrics()
                assert metrics['headrace_in_flight{deployment="m"}'] == 0
                assert metrics["headrace_client_connections"] == 1, "the scrape's own"
                replicas = [v for name, v in metrics.items() if name.startswith("headrace_replica_in_flight{")]
                assert replicas == [0.0] * 4
                asked = sum(v for name, v in metrics.items() if name.startswith("headrace_requests_total{"))
                assert asked >= count * 0.9, "but for those that left before they were read"
                assert [r.in_flight for r in server.gateway.replicas] == [0] * 4
                answer = await server.post(CHAT, chat(), authorization="Bearer key-for-tests")
                assert answer.status_code in (200, 503)
                assert answer.status_code == 200 or answer.json()["error"]["code"] == "no_healthy_backend"


@pytest.mark.parametrize("seed", range(3))
async def test_a03_after_200_random_ends_every_gauge_is_zero(seed: int) -> None:
    await nothing_is_held_after(200, 25, seed)


@pytest.mark.e2e
@pytest.mark.parametrize("seed", range(10))
async def test_a03_after_10000_random_ends_every_gauge_is_zero(seed: int) -> None:
    await nothing_is_held_after(1000, 40, 1000 + seed)


async def test_a03_a_refused_call_holds_no_place_of_its_key() -> None:
    keys = [{"name": "k", "key": "key-for-tests", "max_parallel": 1}]
    async with engine_running() as engine, serving(config_of(engine, keys=keys)) as server:
        for status in (400, 500, 503):
            answer = await server.post(CHAT, chat(fake={"status": status}), authorization="Bearer key-for-tests")
            assert answer.status_code != 429
        answer = await server.post(CHAT, chat(model="unknown"), authorization="Bearer key-for-tests")
        assert answer.status_code == 404
        assert (await server.post(CHAT, chat(), authorization="Bearer key-for-tests")).status_code == 200
