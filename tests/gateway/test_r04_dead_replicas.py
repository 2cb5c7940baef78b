"""A replica that hangs stalls nobody else, and one that dies loses no request before its first byte (R04)."""

from __future__ import annotations

import asyncio
from typing import Any

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
    text_in,
)

SAID: Json = {"text": "hi"}
DEATHS: dict[str, dict[str, Any]] = {
    "reset before the head": {"die_after": 0, "die_how": "rst"},
    "closed before the head": {"die_after": 0, "die_how": "fin"},
    "answers no HTTP": {"malformed": "garbage-status"},
    "answers no JSON": {"malformed": "bad-json"},
    "answers nothing": {"malformed": "null-choices"},
}


@pytest.mark.parametrize("death", DEATHS)
async def test_r04_a_dead_replica_loses_no_request_before_its_first_byte(death: str) -> None:
    async with (
        engine_running(**DEATHS[death]) as dead,
        engine_running() as fine,
        serving(config_of(dead, fine, policy="round_robin")) as server,
        server.client() as client,
    ):
        answers = [await client.post(CHAT, json=chat(fake=SAID)) for _ in range(12)]
        assert [answer.status_code for answer in answers] == [200] * 12
        assert dead.stats.requests >= 1
        assert {answer.headers["x-headrace-replica"] for answer in answers} == {"p-1"}


@pytest.mark.parametrize("status", [500, 502, 503, 429])
@pytest.mark.parametrize("body", [chat(), streamed()], ids=["whole", "stream"])
async def test_r04_what_one_replica_refuses_another_may_answer(status: int, body: Json) -> None:
    async with (
        engine_running(error_rate=1.0, error_status=status) as broken,
        engine_running() as fine,
        serving(config_of(broken, fine, policy="round_robin")) as server,
    ):
        answer = await server.post(CHAT, body)
        assert answer.status_code == 200
        assert answer.headers["x-headrace-attempts"] == "2"
        assert (broken.stats.requests, fine.stats.requests) == (1, 1)
        assert broken.requests[0].body == fine.requests[0].body


@pytest.mark.parametrize("body", [chat(fake=SAID), streamed(fake=SAID)], ids=["whole", "stream"])
async def test_r04_a_port_at_which_nobody_listens_loses_no_request(body: Json) -> None:
    with nobody() as dead:
        async with engine_running() as fine, serving(config_of(dead, fine)) as server, server.client() as client:
            answers = await asyncio.gather(*(client.post(CHAT, json=body) for _ in range(20)))
            assert [answer.status_code for answer in answers] == [200] * 20


async def test_r04_a_host_that_takes_no_connection_loses_no_request() -> None:
    with no_answer() as silent:
        async with (
            engine_running() as fine,
            serving(config_of(silent, fine, timeouts={"connect_s": 0.1})) as server,
            server.client() as client,
        ):
            answers = [await client.post(CHAT, json=chat()) for _ in range(8)]
            assert [answer.status_code for answer in answers] == [200] * 8


async def test_r04_a_replica_that_dies_with_requests_in_flight_loses_none_of_them() -> None:
    async with (
        engine_by_hand() as doomed,
        engine_running() as fine,
        serving(config_of(doomed.url, fine, policy="round_robin")) as server,
        server.client() as client,
    ):
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(client.post(CHAT, json=streamed(fake=SAID))) for _ in range(16)]
            turns = [await doomed.turn() for _ in range(8)]
            for turn in turns:
                turn.close()
        answers = [await call for call in calls]
        assert [text_in(answer.content) for answer in answers] == ["hi"] * 16
        assert sorted(answer.headers["x-headrace-attempts"] for answer in answers) == ["1"] * 8 + ["2"] * 8
        await settled(lambda: [r for r in server.gateway.replicas if r.in_flight], "still leased")


async def test_r04_after_its_first_byte_a_request_is_never_sent_again() -> None:
    async with (
        engine_running(die_after=1) as dead,
        engine_running() as fine,
        serving(config_of(dead, fine, policy="round_robin")) as server,
    ):
        answer = await server.post(CHAT, streamed())
        assert b"upstream_died" in answer.content
        assert (dead.stats.requests, fine.stats.requests) == (1, 0)


async def test_r04_a_retry_never_goes_to_the_replica_that_failed() -> None:
    async with (
        engine_running(error_rate=1.0) as one,
        engine_running(error_rate=1.0) as two,
        serving(config_of(one, two, attempts=10)) as server,
    ):
        answer = await server.post(CHAT, chat())
        assert answer.status_code == 502
        assert (one.stats.requests, two.stats.requests) == (1, 1)


@pytest.mark.parametrize("hang", ["before", "after", "mid"])
async def test_r04_a_hung_replica_stalls_nobody_else(hang: str) -> None:
    async with (
        engine_running(hang=hang) as hung,
        engine_running() as fine,
        serving(config_of(hung, fine)) as server,
        server.client() as client,
        server.asking(streamed()),
        server.asking(streamed()),
    ):
        await settled(lambda: not hung.stats.requests, "not there yet")
        for _ in range(10):
            with Watch() as watch:
                answer = await client.post(CHAT, json=chat(fake=SAID))
            assert (answer.headers["x-headrace-replica"], watch.within(0.5)) == ("p-1", True)
