"""Circuit breakers over the wire: what opens one, what does not, and how a replica comes back (R05)."""

from __future__ import annotations

import asyncio

import pytest

from gateway.replicas import Replica
from router.breaker import BreakerState
from tests.harness import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MODEL,
    Json,
    Server,
    chat,
    config_of,
    engine_by_hand,
    engine_running,
    serving,
    settled,
    streamed,
    whole,
)


def state_of(server: Server, index: int = 0) -> BreakerState:
    replica: Replica = server.gateway.replicas[index]
    return replica.breaker.state(server.gateway.pipeline.clock.monotonic())


async def half_open(server: Server) -> None:
    await settled(lambda: state_of(server) is not BreakerState.HALF_OPEN, "never half open")


BODIES: dict[str, tuple[str, Json]] = {
    "chat": (CHAT, chat()),
    "stream": (CHAT, streamed()),
    "completion": (COMPLETIONS, {"model": MODEL, "prompt": "x"}),
    "embedding": (EMBEDDINGS, {"model": MODEL, "input": "x"}),
}


@pytest.mark.parametrize("status", [400, 405, 406, 409, 410, 413, 415, 418, 422, 451])
async def test_r05_a_clients_mistake_never_opens_a_breaker(status: int) -> None:
    async with (
        engine_running(error_rate=1.0, error_status=status) as engine,
        serving(config_of(engine)) as server,
        server.client() as client,
    ):
        for path, body in [*BODIES.values()] * 3:
            assert 400 <= (await client.post(path, json=body)).status_code < 500
        assert state_of(server) is BreakerState.CLOSED
        assert "failures=0" in repr(server.gateway.replicas[0].breaker)


@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize("told", [{}, {"retry-after": "0"}], ids=["silent", "told"])
async def test_r05_a_full_engine_is_not_a_broken_one(status: int, told: dict[str, str]) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server, server.client() as client:
        for _ in range(10):
            answer = await client.post(CHAT, json=chat(fake={"status": status, "headers": told}))
            assert answer.status_code in (429, 503)
        assert state_of(server) is BreakerState.CLOSED
        assert (await client.post(CHAT, json=chat())).status_code == 200


async def test_r05_a_full_engine_leaves_the_count_of_failures_as_it_was() -> None:
    """Busy is no sign of health either."""
    async with engine_running() as engine, serving(config_of(engine)) as server, server.client() as client:
        for status in (500, 503, 500, 429, 500):
            await client.post(CHAT, json=chat(fake={"status": status}))
        assert state_of(server) is BreakerState.OPEN


@pytest.mark.parametrize("body", [chat(), streamed()], ids=["whole", "stream"])
async def test_r05_three_failures_in_a_row_open_it_and_one_answer_starts_anew(body: Json) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server, server.client() as client:
        failing = body | {"fake": {"status": 500}}
        for bodies in ([failing, failing, body], [failing, failing, failing]):
            for one in bodies:
                await client.post(CHAT, json=one)
        assert state_of(server) is BreakerState.OPEN
        asked = engine.stats.requests
        answer = await client.post(CHAT, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_healthy_backend")
        assert engine.stats.requests == asked


async def test_r05_streams_that_break_off_open_it_too() -> None:
    async with engine_running(die_after=2) as engine, serving(config_of(engine)) as server, server.client() as client:
        for _ in range(3):
            answer = await client.post(CHAT, json=streamed())
            assert b"upstream_died" in answer.content
        assert state_of(server) is BreakerState.OPEN


async def test_r05_one_probe_finds_out_while_others_are_turned_away() -> None:
    async with engine_by_hand() as engine, serving(config_of(engine.url)) as server, server.client() as client:
        for _ in range(3):
            call = asyncio.create_task(client.post(CHAT, json=chat()))
            (await engine.turn()).send(whole(b"{}", "500 Oops"))
            assert (await call).status_code == 502
        await half_open(server)
        probe = asyncio.create_task(client.post(CHAT, json=chat()))
        turn = await engine.turn()
        others = await asyncio.gather(*(client.post(CHAT, json=chat()) for _ in range(5)))
        assert [answer.status_code for answer in others] == [503] * 5
        assert engine.waiting == 0
        turn.send(whole(b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}'))
        assert (await probe).status_code == 200
        assert state_of(server) is BreakerState.CLOSED


async def test_r05_a_probe_that_fails_doubles_the_wait() -> None:
    async with engine_running(error_rate=1.0) as engine, serving(config_of(engine)) as server:
        for _ in range(3):
            await server.post(CHAT, chat())
        first = int((await server.post(CHAT, chat())).headers["retry-after-ms"])
        await half_open(server)
        assert (await server.post(CHAT, chat())).status_code == 502
        clock, breaker = server.gateway.pipeline.clock, server.gateway.replicas[0].breaker
        assert first == 1000, "a client is never told less than a second"
        assert 0.5 < breaker.retry_after_s(clock.monotonic()) <= 1.0


async def test_r05_a_probe_that_meets_a_full_engine_lets_the_next_one_try() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        for _ in range(3):
            await server.post(CHAT, chat(fake={"status": 500}))
        await half_open(server)
        assert (await server.post(CHAT, chat(fake={"status": 503}))).status_code == 503
        assert (await server.post(CHAT, chat())).status_code == 200
        assert state_of(server) is BreakerState.CLOSED


async def test_r05_the_breaker_of_one_replica_is_nothing_to_another() -> None:
    async with (
        engine_running(error_rate=1.0) as broken,
        engine_running() as fine,
        serving(config_of(broken, fine, policy="round_robin")) as server,
        server.client() as client,
    ):
        for _ in range(10):
            assert (await client.post(CHAT, json=chat())).status_code == 200
        assert broken.stats.requests == 3
        assert (state_of(server, 0) is BreakerState.CLOSED, state_of(server, 1)) == (False, BreakerState.CLOSED)
