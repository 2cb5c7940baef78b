"""A client that goes away frees the engine within 250 ms, wherever its request is (A01, A02)."""

from __future__ import annotations

from typing import Any

import pytest

from engines.fake import FakeEngine
from tests.harness import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    Json,
    Server,
    Watch,
    Wire,
    chat,
    config_of,
    engine_by_hand,
    engine_running,
    framed,
    no_answer,
    nobody,
    request_bytes,
    serving,
    settled,
    streamed,
    token,
)

LIMIT_S = 0.25
BODIES: dict[str, tuple[str, Json]] = {
    "chat": (CHAT, chat()),
    "chat-stream": (CHAT, streamed()),
    "completions": (COMPLETIONS, {"model": "m", "prompt": "x"}),
    "completions-stream": (COMPLETIONS, {"model": "m", "prompt": "x", "stream": True}),
    "embeddings": (EMBEDDINGS, {"model": "m", "input": "x"}),
}


async def leaves(wire: Wire, how: str) -> None:
    if how == "reset":
        wire.reset()
    else:
        wire.writer.close()


async def freed(engine: FakeEngine) -> float:
    """Seconds until the engine has noticed that nobody waits for its answer."""
    with Watch() as watch:
        await settled(lambda: None if engine.stats.aborted else engine.stats, "the engine still works", 2.0)
    assert engine.stats.open == engine.stats.running == 0
    return watch.own_s


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("kind", BODIES)
async def test_a01_a02_a_hang_up_before_the_first_byte_frees_the_engine(kind: str, how: str) -> None:
    path, body = BODIES[kind]
    async with engine_running() as engine, serving(config_of(engine)) as server:
        engine.hold()
        async with server.asking(body, path) as wire:
            await engine.arrived()
            await leaves(wire, how)
            assert await freed(engine) < LIMIT_S
        (record,) = await server.records()
        assert (record["status"], record["error"]) == (499, "client_disconnected")


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a01_a_hang_up_between_tokens_frees_the_engine(how: str) -> None:
    async with engine_running(hang="mid", hang_after=3) as engine, serving(config_of(engine)) as server:
        async with server.asking(streamed()) as wire:
            await wire.read_head()
            await wire.read_chunk()
            await engine.hung()
            await leaves(wire, how)
            assert await freed(engine) < LIMIT_S
        (record,) = await server.records()
        assert record["status"] == 499
        assert record["estimated"]
        assert record["tokens_out"] >= 3, "a hang-up is charged for what was streamed"
        metrics = await server.metrics()
        assert metrics['headrace_stream_aborts_total{side="client"}'] == 1


@pytest.mark.parametrize("hang", ["after", "mid"])
@pytest.mark.parametrize("body", [chat(), streamed()], ids=["whole", "stream"])
async def test_a01_a02_a_hang_up_after_the_engines_head_frees_it(hang: str, body: Json) -> None:
    async with (
        engine_running(hang=hang) as engine,
        serving(config_of(engine)) as server,
        server.asking(body) as wire,
    ):
        await engine.hung()
        await leaves(wire, "close")
        assert await freed(engine) < LIMIT_S


async def test_a01_a_hang_up_while_tokens_pour_frees_the_engine() -> None:
    async with (
        engine_running(output_tokens=5000, itl_s=0.001) as engine,
        serving(config_of(engine)) as server,
        server.asking(streamed()) as wire,
    ):
        await wire.read_head()
        for _ in range(20):
            await wire.read_chunk()
        await leaves(wire, "close")
        assert await freed(engine) < LIMIT_S


async def no_longer_held(server: Server) -> float:
    replicas = server.gateway.replicas
    with Watch() as watch:
        await settled(lambda: [r for r in replicas if r.in_flight], "a replica is still held", 2.0)
    return watch.own_s


@pytest.mark.parametrize("body", [chat(), streamed()], ids=["whole", "stream"])
async def test_a01_a_hang_up_while_connecting_ends_the_attempt(body: Json) -> None:
    with no_answer() as url:
        async with serving(config_of(url)) as server:
            (replica,) = server.gateway.replicas
            async with server.asking(body) as wire:
                await settled(lambda: not replica.in_flight, "nothing was sent")
                await leaves(wire, "close")
                assert await no_longer_held(server) < LIMIT_S
            assert replica.breaker.allows(0.0), "a client that left says nothing about the engine"


async def test_a01_a_hang_up_during_a_retry_frees_the_second_replica() -> None:
    with nobody() as dead:
        async with engine_running() as engine, serving(config_of(dead, engine, policy="round_robin")) as server:
            engine.hold()
            async with server.asking(streamed()) as wire:
                await engine.arrived()
                assert [r.in_flight for r in server.gateway.replicas] == [0, 1]
                await leaves(wire, "close")
                assert await freed(engine) < LIMIT_S
            (record,) = await server.records()
            assert record["attempts"] == 2


async def test_a01_a_hang_up_while_a_retry_connects_ends_it() -> None:
    with nobody() as dead, no_answer() as silent:
        async with (
            serving(config_of(dead, silent, policy="round_robin")) as server,
            server.asking(streamed()) as wire,
        ):
            await settled(lambda: not server.gateway.replicas[1].in_flight, "no retry")
            await leaves(wire, "close")
            assert await no_longer_held(server) < LIMIT_S


async def test_a01_requests_pipelined_behind_one_that_was_left_never_reach_the_engine() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        engine.hold()
        async with server.connected() as wire:
            await wire.send(request_bytes("POST", CHAT, streamed()) * 3)
            await engine.arrived()
            await leaves(wire, "close")
            assert await freed(engine) < LIMIT_S
        assert engine.stats.requests == 1


async def test_a01_a_client_that_goes_while_its_body_arrives_costs_no_engine() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        async with server.connected() as wire:
            await wire.send(request_bytes("POST", CHAT, chat())[:-5])
            await settled(lambda: not server.gateway.server.open, "not connected")
            await leaves(wire, "close")
        assert engine.stats.requests == 0


@pytest.mark.parametrize("what", ["half an event", "half a chunk"])
async def test_a01_a_hang_up_within_an_event_frees_the_engine(what: str) -> None:
    async with (
        engine_by_hand() as engine,
        serving(config_of(engine.url)) as server,
        server.asking(streamed()) as wire,
    ):
        turn = await engine.turn()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        half: dict[str, Any] = {"half an event": framed(b'data: {"ch'), "half a chunk": framed(token("b"))[:-9]}
        turn.send(head, framed(token("a")), half[what])
        await wire.read_head()
        await wire.read_chunk()
        await leaves(wire, "close")
        with Watch() as watch:
            await turn.gone.wait()
        assert watch.within(LIMIT_S)
