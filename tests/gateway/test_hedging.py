"""A second attempt while the first is slow: rare, elsewhere, and the one that loses is gone at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engines.base import EngineDied, EngineResponse, Receiver
from gateway.hedge import LEAST_SAMPLES, Delays, Gate, Hedging
from tests.gateway.several import several
from tests.harness import (
    CHAT,
    DONE,
    FINISH,
    SSE_HEAD,
    HandEngine,
    Json,
    Server,
    Turn,
    chat,
    config_of,
    engine_by_hand,
    serving,
    settled,
    streamed,
    text_in,
    token,
    whole,
)

OK = whole(b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}')
HEDGE: Json = {"hedge": {"after": 0.05, "max_share": 1.0}, "policy": "round_robin"}


@asynccontextmanager
async def two(**options: Any) -> AsyncIterator[tuple[HandEngine, HandEngine, Server]]:
    """Two engines by hand, of which the first is asked first."""
    async with (
        engine_by_hand() as one,
        engine_by_hand() as other,
        serving(config_of(one.url, other.url, **(HEDGE | options))) as server,
    ):
        yield one, other, server


def stream_of(turn: Turn, text: str) -> None:
    turn.send(SSE_HEAD)
    turn.events(token(text), FINISH, DONE)
    turn.end()


async def breakers_are_calm(server: Server) -> None:
    await settled(lambda: [r for r in server.gateway.replicas if r.in_flight], "still leased")
    assert all("failures=0 probing=False" in repr(r.breaker) for r in server.gateway.replicas)


@pytest.mark.parametrize("body", [chat(), streamed()], ids=["whole", "stream"])
async def test_the_first_byte_wins_and_the_loser_is_cut_off_at_once(body: Json) -> None:
    async with two() as (one, other, server), asyncio.TaskGroup() as group:
        call = group.create_task(server.post(CHAT, body))
        slow, fast = await one.turn(), await other.turn()
        assert slow.body == fast.body
        if body.get("stream"):
            fast.send(SSE_HEAD)
            fast.events(token("quick"))
            async with asyncio.timeout(2):
                await slow.gone.wait()
            fast.events(FINISH, DONE)
            fast.end()
        else:
            fast.send(OK)
        answer = await call
        assert answer.status_code == 200
        assert (answer.headers["x-headrace-replica"], answer.headers["x-headrace-attempts"]) == ("p-1", "2")
        async with asyncio.timeout(2):
            await slow.gone.wait()
        await breakers_are_calm(server)
        assert (await server.records())[0]["hedged"] is True
        found = await server.metrics()
        assert found['headrace_hedges_total{deployment="m",hedge="won"}'] == 1
        assert found['headrace_attempts_total{outcome="abandoned",pool="p",replica="p-0"}'] == 1
        assert found['headrace_attempts_total{outcome="fine",pool="p",replica="p-1"}'] == 1


async def test_the_head_of_a_stream_is_no_first_byte() -> None:
    """Engines send it before the first token."""
    async with two() as (one, other, server), asyncio.TaskGroup() as group:
        call = group.create_task(server.post(CHAT, streamed()))
        slow = await one.turn()
        slow.send(SSE_HEAD)
        stream_of(await other.turn(), "quick")
        assert text_in((await call).content) == "quick"


async def test_the_first_may_still_win_after_the_second_was_sent() -> None:
    async with two() as (one, other, server), asyncio.TaskGroup() as group:
        call = group.create_task(server.post(CHAT, streamed()))
        slow, second = await one.turn(), await other.turn()
        second.send(SSE_HEAD)
        stream_of(slow, "first")
        answer = await call
        assert (text_in(answer.content), answer.headers["x-headrace-replica"]) == ("first", "p-0")
        async with asyncio.timeout(2):
            await second.gone.wait()
        found = await server.metrics()
        assert found['headrace_hedges_total{deployment="m",hedge="lost"}'] == 1


async def test_who_answers_in_time_is_alone() -> None:
    async with two(hedge={"after": 5, "max_share": 1.0}) as (one, other, server), asyncio.TaskGroup() as group:
        call = group.create_task(server.post(CHAT, chat()))
        (await one.turn()).send(OK)
        answer = await call
        assert answer.headers["x-headrace-attempts"] == "1"
        assert other.waiting == 0
        assert "hedged" not in (await server.records())[0]


async def test_extra_requests_stay_within_their_share() -> None:
    async with two(hedge={"after": 0.01, "max_share": 0.05}) as (one, other, server), server.client() as client:
        sent = 40

        async def play(engine: HandEngine) -> None:
            while True:
                turn = await engine.turn()
                await asyncio.sleep(0.03)
                if not turn.gone.is_set():
                    turn.send(OK)

        async with asyncio.TaskGroup() as group:
            players = [group.create_task(play(engine)) for engine in (one, other)]
            for _ in range(sent):
                assert (await client.post(CHAT, json=chat())).status_code == 200
            for player in players:
                player.cancel()
        records = await server.records(sent)
        assert sum(record.get("hedged", False) for record in records) == 2


@pytest.mark.parametrize("body", [chat(), streamed()], ids=["whole", "stream"])
async def test_a_first_that_fails_while_the_second_runs_costs_nothing(body: Json) -> None:
    async with two() as (one, other, server), asyncio.TaskGroup() as group:
        call = group.create_task(server.post(CHAT, body))
        first, second = await one.turn(), await other.turn()
        first.close()
        await settled(lambda: "failures=0" in repr(server.gateway.replicas[0].breaker), "not judged at once")
        if body.get("stream"):
            stream_of(second, "well")
        else:
            second.send(OK)
        answer = await call
        assert (answer.status_code, answer.headers["x-headrace-replica"]) == (200, "p-1")


async def test_when_both_fail_the_first_failure_is_told_and_both_are_judged() -> None:
    async with two(attempts=2) as (one, other, server), asyncio.TaskGroup() as group:
        call = group.create_task(server.post(CHAT, chat()))
        first, second = await one.turn(), await other.turn()
        second.send(whole(b"{}", "503 Full", "retry-after: 9"))
        first.send(whole(b"{}", "500 Oops"))
        assert (await call).json()["error"]["code"] == "upstream_error"
        assert "failures=1" in repr(server.gateway.replicas[0].breaker)
        assert "failures=0" in repr(server.gateway.replicas[1].breaker)
        assert server.gateway.replicas[1].rests_until_s > 0


async def test_a_request_that_is_wrong_waits_for_no_other_opinion() -> None:
    async with two() as (one, other, server), asyncio.TaskGroup() as group:
        call = group.create_task(server.post(CHAT, chat()))
        first, second = await one.turn(), await other.turn()
        second.send(whole(b'{"error": {"message": "no"}}', "400 Bad Request"))
        assert (await call).status_code == 400
        async with asyncio.timeout(2):
            await first.gone.wait()


async def test_a_winner_that_turns_out_an_error_is_tried_elsewhere() -> None:
    async with (
        engine_by_hand() as one,
        engine_by_hand() as other,
        engine_by_hand() as third,
        serving(config_of(one.url, other.url, third.url, **HEDGE)) as server,
        asyncio.TaskGroup() as group,
    ):
        call = group.create_task(server.post(CHAT, streamed()))
        await one.turn()
        second = await other.turn()
        second.send(SSE_HEAD)
        second.events(b'data: {"error": {"message": "oops", "code": 500}}\n\n')
        stream_of(await third.turn(), "third time")
        assert text_in((await call).content) == "third time"


async def test_a_client_that_leaves_leaves_neither_attempt_behind() -> None:
    async with two() as (one, other, server):
        async with server.asking(streamed()):
            first, second = await one.turn(), await other.turn()
        async with asyncio.timeout(2):
            await first.gone.wait()
            await second.gone.wait()
        await breakers_are_calm(server)


async def test_without_another_replica_there_is_no_second_attempt() -> None:
    async with (
        engine_by_hand() as only,
        serving(config_of(only.url, **HEDGE)) as server,
        asyncio.TaskGroup() as group,
    ):
        call = group.create_task(server.post(CHAT, chat()))
        turn = await only.turn()
        await asyncio.sleep(0.1)
        turn.send(OK)
        assert (await call).headers["x-headrace-attempts"] == "1"


async def test_the_delay_is_learned_from_the_deployments_answers() -> None:
    async with engine_by_hand() as one, engine_by_hand() as other:
        config = several(m={"engines": [one, other], "hedge": {"max_share": 1.0}, "policy": "round_robin"})
        async with serving(config) as server, server.client() as client, asyncio.TaskGroup() as group:

            async def ask() -> None:
                assert (await client.post(CHAT, json=chat())).status_code == 200

            for number in range(LEAST_SAMPLES):
                call = group.create_task(ask())
                (await (one, other)[number % 2].turn()).send(OK)
                await call
            call = group.create_task(ask())
            slow, fast = await one.turn(), await other.turn()
            fast.send(OK)
            await call
            await slow.gone.wait()
            records = await server.records(LEAST_SAMPLES + 1)
            assert [record.get("hedged", False) for record in records] == [False] * LEAST_SAMPLES + [True]


def test_streams_and_whole_answers_are_learned_apart() -> None:
    hedging = Hedging(None, 0.05)
    for number in range(100):
        hedging.learn(number / 100, stream=True)
    assert hedging.delay_s(stream=False) is None
    assert hedging.delay_s(stream=True) == pytest.approx(0.9, abs=0.05)
    assert Hedging(0.3, 0.05).delay_s(stream=True) == 0.3


def test_the_percentile_follows_what_answers_take_now() -> None:
    delays = Delays()
    for _ in range(LEAST_SAMPLES - 1):
        delays.add(1.0)
    assert delays.p95_s is None
    for _ in range(300):
        delays.add(2.0)
    assert delays.p95_s == 2.0


class Answer:
    """Implements `EngineResponse`; `says` is called with who subscribes."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[bytes, bytes] = {}
        self.last_data_s = 0.0
        self.receiver: Receiver | None = None
        self.calls: list[str] = []

    async def read(self, limit_bytes: int) -> bytes:
        return b""

    def subscribe(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def abort(self) -> None:
        self.calls.append("abort")


class Heard:
    """Implements `Receiver`. Hangs up on `stop`."""

    def __init__(self, gate: EngineResponse, stop: bytes = b"") -> None:
        self.gate = gate
        self.stop = stop
        self.told: list[object] = []

    def on_data(self, payload: bytes, framed: bytes | None) -> None:
        self.told.append(payload)
        if payload == self.stop:
            self.gate.abort()

    def splice(self, chunk: bytes) -> bool:
        self.told.append(chunk)
        return True

    def on_end(self) -> None:
        self.told.append("end")

    def on_error(self, error: Exception) -> None:
        self.told.append(error)


async def opened() -> tuple[Answer, Gate]:
    answer = Answer()
    gate = Gate(answer)
    waiting = asyncio.create_task(gate.opened())
    await asyncio.sleep(0)
    gate.on_data(b"a", None)
    gate.on_data(b"b", None)
    await waiting
    return answer, gate


async def test_a_gate_gives_what_came_early_and_then_everything_as_it_comes() -> None:
    answer, gate = await opened()
    assert not gate.splice(b"c")
    heard = Heard(gate)
    gate.subscribe(heard)
    assert gate.splice(b"c")
    gate.on_data(b"d", None)
    gate.pause()
    gate.resume()
    gate.on_end()
    assert heard.told == [b"a", b"b", b"c", b"d", "end"]
    assert answer.calls == ["pause", "resume"]
    assert gate.last_data_s == 0.0


async def test_a_gate_says_nothing_more_to_who_has_hung_up() -> None:
    answer, gate = await opened()
    heard = Heard(gate, stop=b"a")
    gate.subscribe(heard)
    assert heard.told == [b"a"]
    assert answer.calls == ["abort"]


@pytest.mark.parametrize("early", [True, False])
async def test_a_gate_passes_on_how_it_ended(early: bool) -> None:
    for end in ("end", EngineDied("x")):
        _, gate = await opened()
        heard = Heard(gate)
        if not early:
            gate.subscribe(heard)
        if isinstance(end, EngineDied):
            gate.on_error(end)
        else:
            gate.on_end()
        if early:
            gate.subscribe(heard)
        assert heard.told == [b"a", b"b", end]


async def test_a_gate_that_breaks_before_its_first_byte_raises() -> None:
    gate = Gate(Answer())
    waiting = asyncio.create_task(gate.opened())
    await asyncio.sleep(0)
    gate.on_error(EngineDied("x"))
    with pytest.raises(EngineDied):
        await waiting
