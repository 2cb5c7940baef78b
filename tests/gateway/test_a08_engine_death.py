"""An engine that dies in the middle of a stream: the client is told, nobody pretends, the breaker counts (A08)."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.harness import (
    CHAT,
    COMPLETIONS,
    DONE,
    FINISH,
    SSE_HEAD,
    Json,
    Server,
    chat,
    config_of,
    engine_by_hand,
    engine_running,
    events_in,
    framed,
    serving,
    streamed,
    token,
)

ERROR = b'data: {"error":{"message":"CUDA out of memory","type":"InternalServerError","code":500}}\n\n'
DEATHS: dict[str, Json] = {
    "reset": {"die_after": 3, "die_how": "rst"},
    "close": {"die_after": 3, "die_how": "fin"},
    "clean end without [DONE]": {"sse": (token("a") + token("b")).decode()},
    "half an event": {"sse": (token("a") + token("b")[:-12]).decode()},
    "error event and [DONE]": {"sse": (token("a") + ERROR + DONE).decode()},
    "error event alone": {"sse": (token("a") + ERROR).decode()},
    "bad chunk": {"malformed": "bad-chunk"},
}


def check_told(body: bytes) -> Json:
    """The error at the end of a stream, which must be the last event, and no [DONE]."""
    *before, last = events_in(body)
    assert "[DONE]" not in before
    assert before, "something came before"
    error: Json = json.loads(last)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "server_error"
    return error


@pytest.mark.parametrize("death", DEATHS)
async def test_a08_a_death_in_the_stream_is_told_and_there_is_no_done(death: str) -> None:
    async with (
        engine_running() as engine,
        engine_running() as other,
        serving(config_of(engine, other, policy="round_robin")) as server,
    ):
        answer = await server.post(CHAT, streamed(fake=DEATHS[death]))
        assert answer.status_code == 200
        error = check_told(answer.content)
        assert other.stats.requests == 0, "no retry after the first byte"
        (record,) = await server.records()
        assert (record["status"], record["error"]) == (200, error["code"])
        metrics = await server.metrics()
        assert metrics['headrace_attempts_total{outcome="broken",pool="p",replica="p-0"}'] == 1
        assert metrics['headrace_stream_aborts_total{side="engine"}'] == 1


@pytest.mark.parametrize("death", DEATHS)
async def test_a08_the_breaker_counts_deaths_in_streams(death: str) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        for _ in range(3):
            assert (await server.post(CHAT, streamed(fake=DEATHS[death]))).status_code == 200
        answer = await server.post(CHAT, streamed())
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "no_healthy_backend"


async def test_a08_completions_streams_are_held_to_the_same() -> None:
    async with engine_running(die_after=2) as engine, serving(config_of(engine)) as server:
        answer = await server.post(COMPLETIONS, {"model": "m", "prompt": "x", "stream": True})
        check_told(answer.content)


async def test_a08_one_of_two_choices_finished_is_not_a_finished_answer() -> None:
    first, second = token("a"), token("b", index=1)
    async with engine_running() as engine, serving(config_of(engine)) as server:
        fake = {"sse": (first + second + FINISH).decode()}
        check_told((await server.post(CHAT, streamed(n=2, fake=fake))).content)


async def test_a08_a_finished_answer_without_done_is_passed_on_as_it_is() -> None:
    """Some engines leave [DONE] out; every choice said why it ended, so nothing is missing."""
    async with engine_running() as engine, serving(config_of(engine)) as server:
        fake = {"sse": (token("a") + FINISH).decode()}
        answer = await server.post(CHAT, streamed(fake=fake))
        assert answer.content == token("a") + FINISH
        (record,) = await server.records()
        assert "error" not in record


@pytest.mark.parametrize("body", [chat(), streamed()], ids=["whole", "stream"])
@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_a08_r04_a_death_before_the_first_byte_costs_the_client_nothing(how: str, body: Json) -> None:
    async with (
        engine_running(die_after=0, die_how=how) as dying,
        engine_running() as other,
        serving(config_of(dying, other, policy="round_robin")) as server,
    ):
        answer = await server.post(CHAT, body)
        assert answer.status_code == 200
        assert answer.headers["x-headrace-replica"] == "p-1"
        assert answer.headers["x-headrace-attempts"] == "2"
        assert b"error" not in answer.content


async def test_a08_r04_half_of_a_whole_answer_is_no_first_byte() -> None:
    async with (
        engine_running(die_after=1) as dying,
        engine_running() as other,
        serving(config_of(dying, other, policy="round_robin")) as server,
    ):
        answer = await server.post(CHAT, chat())
        assert answer.status_code == 200
        assert answer.json()["choices"]


async def sole_answer(server: Server, body: Json) -> Json:
    answer = await server.post(CHAT, body)
    error: Json = answer.json()["error"]
    return error | {"status": answer.status_code}


@pytest.mark.parametrize("body", [chat(), streamed()], ids=["whole", "stream"])
async def test_a08_when_every_replica_dies_the_answer_is_a_502(body: Json) -> None:
    async with engine_running(die_after=0) as engine, serving(config_of(engine)) as server:
        error = await sole_answer(server, body)
        assert (error["status"], error["type"], error["code"]) == (502, "server_error", "upstream_died")


async def test_a08_a_kept_connection_that_the_engine_has_closed_is_no_death() -> None:
    """The race of every keep-alive: the engine closes an idle connection as the gateway writes on it."""
    async with engine_by_hand() as engine, serving(config_of(engine.url)) as server, server.client() as client:
        for kept in (True, False):
            task = asyncio.create_task(client.post(CHAT, json=streamed()))
            turn = await engine.turn()
            if not kept:
                turn.close()
                turn = await engine.turn()
            turn.send(SSE_HEAD)
            turn.events(token("a"), FINISH, DONE)
            turn.end()
            assert (await task).content == token("a") + FINISH + DONE
        (replica,) = server.gateway.replicas
        assert "failures=0" in repr(replica)


async def test_a08_bytes_after_the_end_of_an_answer_do_not_reach_the_next_client() -> None:
    async with engine_by_hand() as engine, serving(config_of(engine.url)) as server:
        task = asyncio.create_task(server.post(CHAT, streamed()))
        turn = await engine.turn()
        turn.send(SSE_HEAD + framed(token("a") + FINISH + DONE) + b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\nSTRAY")
        assert (await task).content == token("a") + FINISH + DONE
        await turn.gone.wait()
        task = asyncio.create_task(server.post(CHAT, streamed()))
        turn = await engine.turn()
        turn.send(SSE_HEAD)
        turn.events(token("b"), FINISH, DONE)
        turn.end()
        assert (await task).content == token("b") + FINISH + DONE
