"""Calls that wait in the gateway for a place: they leave at once, are told why not, and leave nothing behind."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack

import pytest

from engines.fake import FakeEngine
from tests.harness import (
    CHAT,
    Json,
    Server,
    Watch,
    Wire,
    chat,
    config_of,
    engine_running,
    gauges,
    nobody,
    serving,
    settled,
    streamed,
)

LIMIT_S = 0.25


def waiting(server: Server) -> int:
    return sum(len(room) for room in server.gateway.rooms)


async def until_waiting(server: Server, count: int) -> None:
    await settled(lambda: None if waiting(server) == count else waiting(server) + 1, f"not {count} wait")


def at_rest(server: Server) -> None:
    """Nothing waits, and no replica has anything on its books."""
    assert waiting(server) == 0
    for replica in server.gateway.replicas:
        load = replica.load
        books = (load.in_flight, load.waiting, load.prefill_tokens, load.prefill_pairs, load.context_tokens)
        assert books == (0, 0, 0, 0, 0.0), replica


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("body", [chat(), streamed()], ids=["whole", "stream"])
async def test_a01_a_hang_up_while_queued_frees_the_place_and_reaches_no_engine(body: Json, how: str) -> None:
    async with (
        engine_running() as engine,
        serving(config_of(engine, pool={"max_in_flight": 1})) as server,
        server.asking(chat()) as first,
    ):
        engine.hold()
        await settled(lambda: not engine.stats.requests, "nothing was sent")
        async with server.asking(body) as second, server.asking(body) as third:
            await until_waiting(server, 2)
            if how == "reset":
                second.reset()
            else:
                second.writer.close()
            with Watch() as watch:
                await until_waiting(server, 1)
            assert watch.within(LIMIT_S)
            engine.release()
            assert (await first.answer()).status == 200
            answer = await third.answer()
            assert answer.status == 200
            assert answer.head.get("x-headrace-queue-position") == "2"
        assert engine.stats.requests == 2
        left = [r for r in await server.records(3) if r["status"] == 499]
        assert [r["error"] for r in left] == ["client_disconnected"]
        at_rest(server)


async def refused(wire: Wire, status: int) -> float:
    """What `retry-after` says."""
    answer = await wire.answer()
    assert answer.status == status
    seconds = answer.head.get("retry-after")
    assert seconds is not None
    assert answer.head.get("retry-after-ms") is not None
    assert 1 <= float(seconds) <= 120
    return float(seconds)


async def test_a20_no_room_to_wait_and_too_long_a_wait_are_503_and_a_keys_own_limit_is_429() -> None:
    keys: list[Json] = [{"name": "k", "key": "key-for-tests", "max_parallel": 1}]
    keys.append({"name": "o", "key": "other-key-for-tests"})
    queue = {"max_waiting": 1, "max_wait_s": 0.3}
    async with engine_running() as engine:
        config = config_of(engine, pool={"max_in_flight": 1}, keys=keys, queue=queue)
        async with serving(config) as server, server.asking(chat(), authorization="Bearer key-for-tests") as first:
            engine.hold()
            await settled(lambda: not engine.stats.requests, "nothing was sent")
            async with server.asking(chat(), authorization="Bearer key-for-tests") as own:
                await refused(own, 429)
            async with server.asking(chat(), authorization="Bearer other-key-for-tests") as waits:
                await until_waiting(server, 1)
                async with server.asking(chat(), authorization="Bearer other-key-for-tests") as more:
                    answer = await more.answer()
                    assert (answer.status, answer.error["code"]) == (503, "server_is_overloaded")
                    assert "`queue.max_waiting` is 1" in answer.error["message"]
                await refused(waits, 503)
            engine.release()
            assert (await first.answer()).status == 200
            at_rest(server)


async def test_a20_retry_after_is_when_the_queue_would_be_through() -> None:
    async with engine_running() as engine:
        queue = {"max_waiting": 4}
        async with serving(config_of(engine, pool={"max_in_flight": 1}, queue=queue)) as server:
            (room,) = server.gateway.rooms
            async with AsyncExitStack() as stack:
                engine.hold()
                wires = [await stack.enter_async_context(server.asking(chat())) for _ in range(5)]
                await until_waiting(server, 4)
                engine.release(1)
                await until_waiting(server, 3)
                await asyncio.sleep(0.5)
                engine.release(1)
                await until_waiting(server, 2)
                wires += [await stack.enter_async_context(server.asking(chat())) for _ in range(2)]
                await until_waiting(server, 4)
                expected_s = room.retry_after_s()
                assert 1.0 < expected_s < 5.0
                last = await stack.enter_async_context(server.asking(chat()))
                assert await refused(last, 503) == pytest.approx(expected_s, abs=1.0)
                engine.release()
                assert [(await wire.answer()).status for wire in wires] == [200] * 7


async def test_a_call_with_a_fallback_for_it_does_not_wait() -> None:
    async with engine_running() as busy, engine_running() as other:
        config = config_of(busy, pool={"max_in_flight": 1}, fallbacks={"overloaded": ["small"]})
        config["pools"]["q"] = {"urls": [other.url]}
        config["deployments"]["small"] = {"variants": {"v": {"pools": ["q"], "model": "m"}}}
        async with serving(config) as server, server.asking(chat()) as first:
            busy.hold()
            await settled(lambda: not busy.stats.requests, "nothing was sent")
            async with server.asking(chat()) as second:
                answer = await second.answer()
            assert answer.status == 200
            assert answer.head.get("x-headrace-fallback") == "small"
            assert answer.head.get("x-headrace-queue-position") is None
            busy.release()
            assert (await first.answer()).status == 200


async def test_r04_a_retry_that_finds_all_others_full_waits_for_one() -> None:
    """An engine dies under load: what it had goes to those that are at their limit, in turn."""
    async with engine_running(die_after=0) as one, engine_running() as two:
        config = config_of(one, two, pool={"max_in_flight": 1}, policy="round_robin")
        async with serving(config) as server:
            one.hold()
            two.hold()
            async with server.asking(chat()) as dies, server.asking(chat()) as other:
                await one.arrived()
                await two.arrived()
                one.release()
                await until_waiting(server, 1)
                two.release(1)
                assert (await other.answer()).status == 200
                await two.arrived(2)
                two.release()
                answer = await dies.answer()
            assert answer.status == 200
            assert answer.head.get("x-headrace-attempts") == "2"
            assert answer.head.get("x-headrace-queue-position") == "1"
            at_rest(server)


async def test_a_retry_of_a_call_that_waited_takes_a_free_place_at_once() -> None:
    """It has had its turn: it does not go to the end of the queue."""
    with nobody() as dead:
        async with engine_running() as engine, serving(config_of(dead, engine, policy="round_robin")) as server:
            async with server.asking(chat()) as wire:
                answer = await wire.answer()
            assert answer.status == 200
            assert answer.head.get("x-headrace-attempts") == "2"
            assert answer.head.get("x-headrace-queue-position") is None
            metrics = await server.metrics()
            assert metrics['headrace_queue_wait_seconds_count{deployment="m"}'] == 1


@pytest.mark.parametrize(
    ("header", "goes_first"),
    [({}, True), ({"x_headrace_priority": "5"}, False), ({"x_gateway_inference_objective": "batch"}, False)],
)
async def test_the_priority_header_lowers_and_never_raises(header: dict[str, str], goes_first: bool) -> None:
    """A key of class 3 that asks for class 0 stays behind a key of class 1."""
    keys = [{"name": "good", "key": "key-of-good"}, {"name": "low", "key": "key-of-low"}]
    queue = {"classes": {"good": 1, "low": 3}, "objectives": {"batch": 7}}
    async with engine_running() as engine:
        config = config_of(engine, pool={"max_in_flight": 1}, keys=keys, queue=queue)
        async with serving(config) as server, server.asking(chat(), authorization="Bearer key-of-low") as first:
            engine.hold()
            await settled(lambda: not engine.stats.requests, "nothing was sent")
            raised = server.asking(chat("low"), authorization="Bearer key-of-low", x_headrace_priority="0")
            async with raised as low:
                await until_waiting(server, 1)
                async with server.asking(chat("good"), authorization="Bearer key-of-good", **header) as good:
                    await until_waiting(server, 2)
                    engine.release(2)
                    assert (await first.answer()).status == 200
                    then = good if goes_first else low
                    assert (await then.answer()).status == 200
                    engine.release()
                    assert (await (low if goes_first else good).answer()).status == 200


async def test_a_class_that_there_is_not_is_refused() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        for value in ("10", "-1", "x"):
            answer = await server.post(CHAT, chat(), x_headrace_priority=value)
            assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


FAULTS: list[Json] = [
    *[{}] * 4,
    {"hang": "before"},
    {"hang": "mid"},
    {"status": 500},
    {"status": 503},
    {"die_after": 0},
    {"die_after": 2},
    {"ttft": 0.01, "itl": 0.002},
]


async def _caller(server: Server, rng: random.Random, calls: int) -> None:
    for _ in range(calls):
        body = chat(f"{rng.random()} " * rng.choice([1, 200]), stream=rng.random() < 0.7, fake=dict(rng.choice(FAULTS)))
        patience_s = rng.choice([None, 0.0, rng.random() * 0.05])
        async with server.asking(body, authorization=f"Bearer key-of-{rng.randrange(3)}") as wire:
            try:
                async with asyncio.timeout(patience_s):
                    await wire.answer()
            except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
                pass


@pytest.mark.parametrize("seed", range(2))
async def test_a03_after_a_storm_with_the_queue_in_play_all_is_at_rest(seed: int) -> None:
    keys = [{"name": f"k{i}", "key": f"key-of-{i}", "tenant": f"t{i}"} for i in range(3)]
    limits = {"connect_s": 1.0, "ttft_s": 0.06, "idle_s": 0.06, "total_s": 0.3}
    rng = random.Random(seed)
    async with engine_running() as one, engine_running() as two:
        config = config_of(
            one, two, keys=keys, timeouts=limits, retry_share=1, queue={"max_waiting": 8, "max_wait_s": 0.1},
            pool={"max_in_flight": 2},
        )  # fmt: skip
        async with serving(config) as server:
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(_caller(server, rng, 10))
            for engine in (one, two):
                await settled(lambda engine=engine: _busy(engine), "an engine still works")  # type: ignore[misc]
            await settled(lambda: [v for v in gauges(server.gateway).values() if v], "a gauge is not zero")
            at_rest(server)
            metrics = await server.metrics()
            waits = "headrace_queue_wait_seconds_count"
            assert sum(v for name, v in metrics.items() if name.startswith(waits)) > 0
            for room in server.gateway.rooms:
                assert repr(room) == "<WaitingRoom m <FairQueue 0/8>>"


def _busy(engine: FakeEngine) -> object:
    stats = engine.stats
    return stats if stats.open or stats.running or stats.waiting or stats.held else None
