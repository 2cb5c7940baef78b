"""Replicas come, warm up, drain and go while requests run, and no stream of theirs is lost."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from engines.fake import FakeEngine
from engines.http import Endpoint, HttpEngine
from gateway.backoff import Backoff
from gateway.pools import Pool
from gateway.replicas import LEAST_SHARE, Ramp, Replica, admitted
from router.breaker import BreakerState
from tests.harness import (
    CHAT,
    EMBEDDINGS,
    MODEL,
    PATIENCE_S,
    Json,
    Server,
    chat,
    config_of,
    engine_running,
    nobody,
    serving,
    settled,
    streamed,
    text_in,
)


class Listed:
    """A file that names the replicas of pool `p`."""

    def __init__(self, folder: Path, *engines: FakeEngine) -> None:
        self.path = folder / "replicas.json"
        self.name(*engines)

    def name(self, *engines: FakeEngine | str) -> None:
        """Replaced as a whole, as ConfigMaps are."""
        urls = [one if isinstance(one, str) else one.url for one in engines]
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(urls))
        fresh.replace(self.path)

    def config(self, **pool: Any) -> Json:
        found = config_of(pool={"file": str(self.path), "probe": {"every_s": None}, **pool})
        del found["pools"]["p"]["urls"]
        return found


def pool_of(server: Server) -> Pool:
    return server.gateway.pools["p"]


async def replicas_are(server: Server, *engines: FakeEngine) -> None:
    wanted = {engine.url for engine in engines}
    await settled(
        lambda: None if {r.url for r in pool_of(server).replicas} == wanted else pool_of(server),
        "not the replicas that the file names",
        PATIENCE_S,
    )


async def test_replicas_that_a_file_names_are_there_before_the_first_request(tmp_path: Path) -> None:
    async with engine_running() as one, engine_running() as two, serving(Listed(tmp_path, one, two).config()) as server:
        assert repr(pool_of(server)) == "<Pool p replicas=2>"
        assert [r.name for r in pool_of(server).replicas] == ["p-0", "p-1"]
        assert (await server.post(CHAT, chat())).status_code == 200


async def test_a_stream_on_a_replica_that_goes_is_finished_and_a_newcomer_takes_over(tmp_path: Path) -> None:
    async with engine_running(output_tokens=30, itl_s=0.05) as old, engine_running() as new:
        listed = Listed(tmp_path, old)
        async with serving(listed.config()) as server, server.asking(streamed()) as wire:
            await wire.read_head()
            before = pool_of(server).replicas[0]
            listed.name(new)
            await replicas_are(server, new)
            assert repr(pool_of(server)) == "<Pool p replicas=1 draining=1>"
            answers = await asyncio.gather(*(server.post(CHAT, chat()) for _ in range(5)))
            assert {answer.headers["x-headrace-replica"] for answer in answers} == {pool_of(server).replicas[0].name}
            assert pool_of(server).draining == (before,)
            body = await wire.read_body()
            assert body.endswith(b"data: [DONE]\n\n")
            assert text_in(body)
            await settled(lambda: pool_of(server).draining, "still draining")
            await settled(lambda: old.stats.connected, "its connections are kept")
            assert old.stats.requests == 1


async def test_under_load_nothing_is_lost_while_replicas_come_and_go(tmp_path: Path) -> None:
    async with (
        engine_running(output_tokens=8, itl_s=0.01) as one,
        engine_running(output_tokens=8, itl_s=0.01) as two,
        engine_running(output_tokens=8, itl_s=0.01) as three,
    ):
        listed = Listed(tmp_path, one)
        async with serving(listed.config()) as server:
            ended = asyncio.Event()
            bodies: list[bytes] = []

            async def ask() -> None:
                async with server.client() as client:
                    while not ended.is_set():
                        answer = await client.post(CHAT, json=streamed())
                        assert answer.status_code == 200
                        bodies.append(answer.content)

            asking = [asyncio.create_task(ask()) for _ in range(8)]
            for named in ((one, two), (two, three), (three,), (one, three), (two,)):
                listed.name(*named)
                await replicas_are(server, *named)
            ended.set()
            await asyncio.gather(*asking)
            assert all(body.endswith(b"data: [DONE]\n\n") for body in bodies)
            assert all(engine.stats.requests for engine in (one, two, three))
            assert len(bodies) == sum(engine.stats.completed for engine in (one, two, three))
            assert all(not engine.stats.aborted for engine in (one, two, three))
            assert {r.name for r in pool_of(server).replicas} <= {"p-0", "p-1", "p-2"}


async def test_a_pool_that_is_replaced_as_a_whole_always_has_somebody_to_ask(tmp_path: Path) -> None:
    async with engine_running() as old, engine_running() as new:
        listed = Listed(tmp_path, old)
        async with serving(listed.config(warm_up={})) as server:
            new.hold()
            listed.name(new)
            await new.arrived()
            assert (await server.post(CHAT, chat())).status_code == 200
            assert [r.url for r in pool_of(server).replicas] == [old.url]
            new.release()
            await replicas_are(server, new)
            await settled(lambda: old.stats.connected, "its connections are kept")
            listed.name()
            await replicas_are(server)


async def test_the_same_url_stays_the_same_replica_with_its_breaker(tmp_path: Path) -> None:
    async with engine_running() as one, engine_running() as two:
        listed = Listed(tmp_path, one)
        async with serving(listed.config()) as server:
            first = pool_of(server).replicas[0]
            first.breaker.failed(0.0, probe=False)
            listed.name(two, one)
            await replicas_are(server, one, two)
            assert first in pool_of(server).replicas
            assert "failures=1" in repr(first.breaker)
            newcomer = next(r for r in pool_of(server).replicas if r is not first)
            assert (newcomer.name, newcomer.breaker.state(0.0)) == ("p-1", BreakerState.CLOSED)


async def test_a_replica_that_drains_and_is_named_again_is_what_it_was(tmp_path: Path) -> None:
    async with engine_running() as one, engine_running() as two:
        listed = Listed(tmp_path, one)
        one.hold()
        async with serving(listed.config()) as server, server.asking(chat()) as wire:
            await one.arrived()
            first = pool_of(server).replicas[0]
            listed.name(two)
            await settled(lambda: None if pool_of(server).draining else "not draining", "no drain", PATIENCE_S)
            listed.name(two, one)
            await replicas_are(server, one, two)
            assert first in pool_of(server).replicas
            assert (first.in_flight, first.on_idle, pool_of(server).draining) == (1, None, ())
            one.release()
            assert (await wire.answer()).status == 200
            assert first in pool_of(server).replicas


async def test_an_engine_that_cannot_be_made_is_told_and_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine_running() as one:
        listed = Listed(tmp_path, one)
        config = listed.config(engine={"ca_file": "/nowhere/ca.pem"})
        listed.name(one, "https://127.0.0.1:1")
        async with serving(config) as server:
            await replicas_are(server, one)
            assert (await server.post(CHAT, chat())).status_code == 200
            assert "no engine can be made for https://127.0.0.1:1" in caplog.text
            listed.name(one)
            await settled(lambda: None if "newcomers=[]" in repr(server.gateway.keepers[0]) else "there", "stays", 5.0)


async def test_a_pool_whose_file_is_empty_has_no_replicas_and_says_so(tmp_path: Path) -> None:
    async with serving(Listed(tmp_path).config()) as server:
        answer = await server.post(CHAT, chat())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_healthy_backend")


# Warm-up


async def test_a_newcomer_gets_traffic_only_after_it_has_answered_the_warm_up(tmp_path: Path) -> None:
    async with engine_running() as old, engine_running() as new:
        listed = Listed(tmp_path, old)
        async with serving(listed.config(warm_up={"prompt": "Wake up"})) as server:
            warm = json.loads(old.requests[0].body)
            assert warm["messages"] == [{"role": "user", "content": "Wake up"}]
            assert (warm["model"], warm["max_tokens"], warm["stream"]) == (MODEL, 1, False)
            new.hold()
            listed.name(old, new)
            await new.arrived()
            assert repr(pool_of(server)) == "<Pool p replicas=1 warming=1>"
            for _ in range(4):
                assert (await server.post(CHAT, chat())).headers["x-headrace-replica"] == "p-0"
            new.release()
            await replicas_are(server, old, new)
            answers = [await server.post(CHAT, chat()) for _ in range(4)]
            assert {answer.headers["x-headrace-replica"] for answer in answers} == {"p-0", "p-1"}


async def test_static_replicas_are_warmed_up_before_the_first_request() -> None:
    async with engine_running() as one, serving(config_of(one, pool={"warm_up": {}})) as server:
        assert one.stats.requests == 1
        assert (await server.post(CHAT, chat())).status_code == 200


async def test_a_replica_that_fails_its_warm_up_is_tried_again_until_it_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool: Json = {"warm_up": {}}
    async with engine_running(error_rate=1.0, fault_count=1) as one, serving(config_of(one, pool=pool)) as server:
        assert (await server.post(CHAT, chat())).status_code == 503
        assert pool_of(server).warming[0].last_error == "warm-up: the engine answered 500"
        await replicas_are(server, one)
        assert (await server.post(CHAT, chat())).status_code == 200
        assert pool_of(server).replicas[0].last_error == ""
    assert caplog.text.count("warm-up: the engine answered 500; it gets no traffic yet") == 1


async def test_a_replica_that_warms_up_and_is_named_no_longer_is_gone(tmp_path: Path) -> None:
    async with engine_running() as old, engine_running() as new:
        listed = Listed(tmp_path, old)
        async with serving(listed.config(warm_up={})) as server:
            new.hold()
            listed.name(old, new)
            await new.arrived()
            listed.name(old)
            await settled(lambda: pool_of(server).warming, "still warming", PATIENCE_S)
            await settled(lambda: new.stats.open, "its warm-up goes on")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ('{"input": "x", "model": "m"}', EMBEDDINGS),
        ('{"prompt": "x", "max_tokens": 1}', "/v1/completions"),
        ('{"messages": []}', CHAT),
    ],
)
async def test_a_warm_up_of_ones_own_says_by_its_fields_where_it_goes(body: str, path: str) -> None:
    """One that the engine refuses has found out that it works."""
    async with engine_running() as one, serving(config_of(one, pool={"warm_up": {"body": body}})) as server:
        assert one.requests[0].path == path
        assert json.loads(one.requests[0].body)["model"] == MODEL
        assert len(pool_of(server).replicas) == 1


async def test_a_warm_up_that_reaches_nobody_does_not_keep_the_gateway_from_starting() -> None:
    with nobody() as url:
        async with engine_running() as one, serving(config_of(one, url, pool={"warm_up": {}})) as server:
            assert (await server.post(CHAT, chat())).status_code == 200
            assert pool_of(server).warming[0].last_error.startswith("warm-up: cannot connect to")


# Slow start


def replica(name: str, in_flight: int = 0, served: int = 0, ramp: Ramp | None = None) -> Replica:
    engine = HttpEngine(Endpoint(name, "http://127.0.0.1:1"))
    made = Replica(name, "p", "on-premise", "openai", engine, ramp=ramp)
    made.load.in_flight, made.load.served = in_flight, served
    return made


def test_a_slow_start_grows_evenly_to_a_full_share() -> None:
    ramp = Ramp(100.0, 10.0)
    assert [round(ramp.share(t), 2) for t in (100.0, 105.0, 110.0, 200.0)] == [LEAST_SHARE, 0.55, 1.0, 1.0]


@pytest.mark.parametrize(("now_s", "expected"), [(0.0, 0.1), (5.0, 0.55), (9.0, 0.91)])
@pytest.mark.parametrize("load", [0, 1, 20])
def test_a_slow_starter_may_have_its_share_of_what_others_have(now_s: float, expected: float, load: int) -> None:
    """Requests stay in flight: what it gets while all others have `load` each is its share of that."""
    rng, rounds, total = random.Random(1), 400, 0
    for _ in range(rounds):
        young = replica("young", ramp=Ramp(0.0, 10.0))
        old = [replica("a", load), replica("b", load)]
        while young in admitted([*old, young], now_s, rng):
            young.load.in_flight += 1
        total += young.in_flight
    assert total / rounds == pytest.approx(expected * (1 + load), rel=0.25)


def test_a_slow_start_is_over_when_it_has_its_share() -> None:
    young = replica("young", ramp=Ramp(0.0, 10.0))
    everyone = [replica("a"), young]
    assert admitted(everyone, 10.0, random.Random(1)) == everyone
    assert young.ramp is None


def test_where_all_are_new_none_is_spared() -> None:
    everyone = [replica("a", 3, ramp=Ramp(0.0, 10.0)), replica("b", 5, ramp=Ramp(0.0, 10.0))]
    assert admitted(everyone, 0.0, random.Random(1)) == everyone
    settled_ones = [replica("a"), replica("b")]
    assert admitted(settled_ones, 0.0, random.Random(1)) is settled_ones


async def test_a_newcomer_starts_slowly_where_that_is_wanted(tmp_path: Path) -> None:
    async with engine_running() as old, engine_running() as new:
        listed = Listed(tmp_path, old)
        async with serving(listed.config(slow_start_s=1000)) as server:
            assert pool_of(server).replicas[0].ramp is None
            listed.name(old, new)
            await replicas_are(server, old, new)
            for _ in range(60):
                assert (await server.post(CHAT, chat())).status_code == 200
            assert old.stats.requests > 40
            listed.name(new)
            await replicas_are(server, new)
            assert (await server.post(CHAT, chat())).status_code == 200


async def test_a_newcomer_does_not_get_everything_until_it_has_caught_up(tmp_path: Path) -> None:
    """R01: paced calls that never overlap spread evenly from its first one on."""
    async with engine_running() as old, engine_running() as new:
        listed = Listed(tmp_path, old)
        async with serving(listed.config()) as server:
            for _ in range(40):
                await server.post(CHAT, chat())
            listed.name(old, new)
            await replicas_are(server, old, new)
            for _ in range(20):
                await server.post(CHAT, chat())
            assert new.stats.requests == 10
            newcomer = next(r for r in pool_of(server).replicas if r.url == new.url)
            assert newcomer.served - newcomer.served_before == 10


# The breaker, with requests that overlap


async def test_r05_of_many_requests_at_once_one_finds_out_whether_the_replica_is_back() -> None:
    """R05: recovery by one half-open probe, under concurrency."""
    async with engine_running(error_rate=1.0) as engine, serving(config_of(engine, attempts=1)) as server:
        for _ in range(3):
            assert (await server.post(CHAT, chat())).status_code == 502
        replica = pool_of(server).replicas[0]
        clock = server.gateway.keepers[0]._clock
        await settled(lambda: replica.breaker.state(clock.monotonic()) is BreakerState.OPEN, "not half-open", 5.0)
        engine.configure(error_rate=0.0)
        engine.hold()
        before = engine.stats.requests
        asking = [asyncio.create_task(server.post(CHAT, chat())) for _ in range(20)]
        await engine.arrived()
        done, waiting = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        while len(waiting) > 1:
            more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert engine.stats.requests == before + 1
        assert {task.result().status_code for task in done} == {503}
        engine.release()
        assert [(await task).status_code for task in waiting] == [200]
        answers = await asyncio.gather(*(server.post(CHAT, chat()) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}


def test_pauses_double_up_to_a_limit_and_begin_anew() -> None:
    backoff = Backoff(random.Random(1), first_s=1.0, max_s=4.0)
    pauses = [backoff.pause_s() for _ in range(5)]
    assert all(0.75 * want <= got <= 1.25 * want for got, want in zip(pauses, [1, 2, 4, 4, 4], strict=True))
    backoff.reset()
    assert backoff.pause_s() <= 1.25


async def test_names_are_used_again_so_that_metrics_stay_few() -> None:
    pool = Pool("p")
    assert [pool.free_name(), pool.free_name(["p-0"])] == ["p-0", "p-1"]
    pool.replicas = (replica("p-1"), replica("p-2"))
    assert pool.free_name() == "p-0"
