"""One finite budget of attempts and time, and answers that say when to come again (A19, A20, R05)."""

from __future__ import annotations

import asyncio

import pytest

from tests.harness import (
    CHAT,
    Json,
    Watch,
    chat,
    config_of,
    engine_by_hand,
    engine_running,
    no_answer,
    nobody,
    serving,
    settled,
    streamed,
    whole,
)

KEY = {"authorization": "Bearer key-for-tests"}


@pytest.mark.parametrize("body", [chat(), streamed()], ids=["whole", "stream"])
async def test_a19_with_every_replica_down_the_answer_comes_within_50_ms(body: Json) -> None:
    with nobody() as one, nobody() as two, nobody() as three:
        async with serving(config_of(one, two, three)) as server, server.client() as client:
            for _ in range(12):
                with Watch() as watch:
                    answer = await client.post(CHAT, json=body)
                assert answer.status_code == 503
                error = answer.json()["error"]
                assert (error["type"], error["code"]) == ("server_error", "no_healthy_backend")
                assert 1 <= int(answer.headers["retry-after"]) <= 120
                assert watch.within(0.05)
            assert not any(r.breaker.allows(asyncio.get_running_loop().time()) for r in server.gateway.replicas)


async def test_a19_replicas_that_take_no_connection_cost_time_only_until_they_are_found_out() -> None:
    limits = {"connect_s": 0.1}
    with no_answer() as one, no_answer() as two:
        async with serving(config_of(one, two, timeouts=limits)) as server, server.client() as client:
            for _ in range(3):
                assert (await client.post(CHAT, json=chat())).status_code == 504
            with Watch() as watch:
                answer = await client.post(CHAT, json=chat())
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_healthy_backend")
            assert watch.within(0.05)


@pytest.mark.parametrize("attempts", [1, 2, 4])
async def test_a19_attempts_are_bounded(attempts: int) -> None:
    async with (
        engine_running(error_rate=1.0) as one,
        engine_running(error_rate=1.0) as two,
        engine_running(error_rate=1.0) as three,
        serving(config_of(one, two, three, attempts=attempts)) as server,
    ):
        answer = await server.post(CHAT, chat())
        assert answer.status_code == 502
        asked = sum(engine.stats.requests for engine in (one, two, three))
        assert asked == min(attempts, 3), "each replica once"


async def test_a19_a_deadline_bounds_retries() -> None:
    limits = {"total_s": 0.4}
    async with (
        engine_by_hand() as one,
        engine_by_hand() as two,
        engine_by_hand() as three,
        serving(config_of(one.url, two.url, three.url, timeouts=limits, policy="round_robin")) as server,
    ):

        async def slow_error(engine: object) -> None:
            turn = await engine.turn()  # type: ignore[attr-defined]
            await asyncio.sleep(0.25)
            turn.send(whole(b"{}", "500 Oops"))

        async with asyncio.TaskGroup() as group:
            played = [group.create_task(slow_error(engine)) for engine in (one, two)]
            with Watch() as watch:
                answer = await server.post(CHAT, chat())
            for task in played:
                task.cancel()
        assert answer.status_code == 504
        assert watch.between(0.35, 0.5)
        assert three.waiting == 0


async def test_r05_a_request_that_is_wrong_is_not_asked_again() -> None:
    async with (
        engine_running(error_rate=1.0, error_status=400) as broken,
        engine_running() as fine,
        serving(config_of(broken, fine, policy="round_robin")) as server,
    ):
        assert (await server.post(CHAT, chat())).status_code == 400
        assert fine.stats.requests == 0


async def test_r05_a_replica_that_is_back_is_found_by_one_probe() -> None:
    async with engine_running(error_rate=1.0) as engine, serving(config_of(engine)) as server:
        for _ in range(3):
            assert (await server.post(CHAT, chat())).status_code == 502
        engine.configure(error_rate=0.0)
        engine.hold()
        (replica,) = server.gateway.replicas
        clock = server.gateway.pipeline.clock
        await settled(lambda: not replica.breaker.allows(clock.monotonic()), "never half open")
        async with server.asking(chat()) as probe:
            await engine.arrived()
            answer = await server.post(CHAT, chat())
            assert answer.status_code == 503, "one probe at a time"
            engine.release()
            assert (await probe.answer()).status == 200
        assert (await server.post(CHAT, chat())).status_code == 200


async def test_r05_a_probe_whose_client_left_lets_the_next_one_try() -> None:
    async with engine_running(error_rate=1.0) as engine, serving(config_of(engine)) as server:
        for _ in range(3):
            await server.post(CHAT, chat())
        engine.configure(error_rate=0.0)
        engine.hold()
        (replica,) = server.gateway.replicas
        clock = server.gateway.pipeline.clock
        await settled(lambda: not replica.breaker.allows(clock.monotonic()), "never half open")
        async with server.asking(chat()):
            await engine.arrived()
        await engine.aborted_at_least(1)
        engine.release()
        await settled(lambda: replica.in_flight, "still held")
        assert (await server.post(CHAT, chat())).status_code == 200


# A20


async def test_a20_over_max_parallel_the_answer_says_when_to_come_again() -> None:
    keys = [{"name": "team", "key": "key-for-tests", "max_parallel": 1}]
    async with engine_running() as engine, serving(config_of(engine, keys=keys)) as server:
        engine.hold()
        async with server.asking(streamed(), **KEY) as wire:
            await engine.arrived()
            answer = await server.post(CHAT, chat(), **KEY)
            error = answer.json()["error"]
            assert (answer.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "concurrency")
            assert all(word in error["message"] for word in ("team", "1", "max_parallel"))
            assert int(answer.headers["retry-after"]) >= 1
            assert int(answer.headers["retry-after-ms"]) >= 1
            engine.release()
            await wire.read_head()
            await wire.read_body()
        assert (await server.post(CHAT, chat(), **KEY)).status_code == 200
        assert engine.stats.requests == 2


async def test_a20_a_full_replica_is_an_overload_and_not_a_failure_where_nobody_may_wait() -> None:
    async with engine_running() as engine:
        config = config_of(engine, pool={"max_in_flight": 1})
        config["deployments"]["m"]["queue"] = {"max_waiting": 0}
        async with serving(config) as server:
            engine.hold()
            async with server.asking(streamed()) as wire:
                await engine.arrived()
                answer = await server.post(CHAT, chat())
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (503, "server_is_overloaded")
                assert "max_in_flight" in error["message"]
                assert answer.headers["retry-after"] == "1"
                engine.release()
                await wire.read_head()
                await wire.read_body()


async def test_with_every_replica_full_a_call_waits_in_the_gateway_and_says_so() -> None:
    async with engine_running() as engine, serving(config_of(engine, pool={"max_in_flight": 1})) as server:
        engine.hold()
        async with server.asking(streamed()) as wire:
            await engine.arrived()
            waiting = asyncio.create_task(server.post(CHAT, chat()))
            await settled(lambda: not any(len(room) for room in server.gateway.rooms), "nobody waits yet")
            assert len(engine.requests) == 1
            engine.release()
            await wire.read_head()
            await wire.read_body()
            answer = await waiting
        assert (answer.status_code, answer.headers["x-headrace-queue-position"]) == (200, "1")
        assert int(answer.headers["x-headrace-queued-ms"]) >= 0
        assert not any(len(room) for room in server.gateway.rooms)


@pytest.mark.parametrize(
    ("given", "seconds", "millis"),
    [
        ({"retry-after": "7"}, "7", "7000"),
        ({"retry-after": "7", "retry-after-ms": "250"}, "1", "250"),
        ({"retry-after": "9999"}, "120", "120000"),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, "1", "1000"),
        ({"retry-after": "-5"}, "1", "1000"),
        ({"retry-after": "nan"}, "1", "1000"),
        ({"retry-after": "0"}, "1", "1"),
        ({}, "1", "1000"),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_a20_what_an_engine_says_of_waiting_is_passed_on_within_120_s(
    status: int, given: dict[str, str], seconds: str, millis: str
) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(CHAT, chat(fake={"status": status, "headers": given}))
        assert answer.status_code == status
        assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == (seconds, millis)
