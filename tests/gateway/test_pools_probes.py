"""Health: traffic has the first word, probes the second."""

from __future__ import annotations

import asyncio
import random

import pytest

from engines.fake import FakeEngine
from engines.http import Endpoint, HttpEngine
from gateway.config.pool_options import ProbeOptions
from gateway.pools import Pool
from gateway.probes import Prober
from gateway.replicas import Replica
from router.breaker import BreakerState
from tests.engines.server import Peer, engine_server
from tests.harness import CHAT, chat, config_of, engine_running, nobody, serving, settled


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        if len(self.slept) > 200:
            raise TimeoutError


class Rounds(Time):
    """Each pause lasts until the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self._over = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        await self._over.wait()
        self._over.clear()
        self.now_s += seconds

    def next(self) -> None:
        self._over.set()


class Site:
    """A pool of one replica, its prober, and time."""

    def __init__(self, url: str, **options: object) -> None:
        self.time = Time()
        self.replica = Replica("p-0", "p", "on-premise", "openai", HttpEngine(Endpoint("p-0", url)))
        self.pool = Pool("p", replicas=(self.replica,))
        chosen = ProbeOptions.model_validate({"every_s": 10.0, "idle_s": 30.0} | options)
        self.prober = Prober(self.pool, chosen, self.time, random.Random(1))

    async def look(self, after_s: float) -> None:
        self.time.now_s += after_s
        async with asyncio.TaskGroup() as probes:
            self.prober.probe(probes)

    def state(self) -> BreakerState:
        return self.replica.breaker.state(self.time.now_s)

    def fail(self, times: int = 3) -> None:
        for _ in range(times):
            with self.replica.lease(self.time.now_s) as lease:
                pass
            self.replica.breaker.failed(self.time.now_s, probe=lease.probe)

    async def aclose(self) -> None:
        await self.replica.engine.aclose()


def probes(engine: FakeEngine) -> int:
    return sum(request.path == "/health" for request in engine.requests)


async def test_a_replica_without_traffic_is_asked_and_one_with_traffic_is_not() -> None:
    async with engine_running() as engine:
        site = Site(engine.url)
        await site.look(0)
        for _ in range(5):
            with site.replica.lease(site.time.now_s):
                await site.look(20)
        assert probes(engine) == 0
        with site.replica.lease(site.time.now_s):
            await site.look(100)
        assert probes(engine) == 0
        await site.look(29)
        assert probes(engine) == 0
        await site.look(2)
        assert probes(engine) == 1
        assert {request.path for request in engine.requests} == {"/health"}
        await site.aclose()


async def test_a_probe_that_is_answered_lets_a_request_find_out_before_its_time() -> None:
    async with engine_running() as engine:
        site = Site(engine.url)
        site.fail()
        site.replica.breaker.failed(site.time.now_s + 1000, probe=False)
        assert site.state() is BreakerState.OPEN
        await site.look(0)
        assert site.state() is BreakerState.HALF_OPEN
        assert probes(engine) == 1
        await site.aclose()


async def test_probes_that_fail_at_an_idle_replica_open_its_breaker_before_a_request_has_to() -> None:
    async with engine_running() as engine:
        site = Site(engine.url)
        await site.look(0)
        await site.look(31)
        engine.configure(health_status=503)
        for _ in range(3):
            assert site.state() is BreakerState.CLOSED
            await site.look(10)
        assert site.state() is BreakerState.OPEN
        assert site.replica.last_error == "its health path does not answer"
        engine.configure(health_status=200)
        await site.look(1)
        assert site.state() is BreakerState.HALF_OPEN
        await site.aclose()


async def test_a_failing_probe_says_nothing_where_traffic_works_or_there_is_no_health_path() -> None:
    async with engine_running(health_status=404) as engine:
        site = Site(engine.url)
        await site.look(0)
        for _ in range(6):
            await site.look(100)
        assert probes(engine) == 3
        assert "failures=0" in repr(site.replica.breaker)
        engine.configure(health_status=200)
        site.fail()
        await site.look(0)
        site.replica.breaker.succeeded()
        await site.look(100)
        assert probes(engine) == 5
        engine.configure(health_status=500)
        for _ in range(6):
            with site.replica.lease(site.time.now_s):
                site.replica.breaker.succeeded()
            await site.look(20)
        assert "failures=0" in repr(site.replica.breaker)
        await site.aclose()


async def test_traffic_that_comes_while_a_probe_is_out_overrules_it() -> None:
    async with engine_running() as engine:
        site = Site(engine.url)
        await site.look(0)
        await site.look(31)

        class Busy:
            """Has a request while it is asked for its health."""

            name = "p-0"

            async def healthy(self) -> bool:
                with site.replica.lease(site.time.now_s):
                    return False

        real, site.replica.engine = site.replica.engine, Busy()  # type: ignore[assignment]
        await site.look(40)
        assert "failures=0" in repr(site.replica.breaker)
        site.replica.engine = real
        await site.aclose()


async def test_probes_are_jittered_and_may_be_off() -> None:
    with nobody() as url:
        off = Site(url, every_s=None)
        await off.prober.run()
        assert off.time.slept == []
        site = Site(url, idle_s=1e9)
        with pytest.raises(ExceptionGroup, match="TaskGroup"):
            await site.prober.run()
        assert 5.0 <= min(site.time.slept) < 7.0
        assert 13.0 < max(site.time.slept) <= 15.0
        assert len(set(site.time.slept)) > 100


async def test_a_replica_that_lets_its_probe_hang_delays_no_other_probe_and_gets_no_second_one() -> None:
    asked: list[asyncio.Event] = []

    async def hang(peer: Peer) -> None:
        await peer.request()
        asked.append(asyncio.Event())
        await asked[-1].wait()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with engine_server(hang) as hung_url, engine_running() as fine:
        hung = Replica("p-0", "p", "on-premise", "openai", HttpEngine(Endpoint("p-0", hung_url)))
        other = Replica("p-1", "p", "on-premise", "openai", HttpEngine(Endpoint("p-1", fine.url)))
        time = Rounds()
        options = ProbeOptions(every_s=10.0, idle_s=1.0)
        prober = Prober(Pool("p", replicas=(hung, other)), options, time, random.Random(1))
        running = asyncio.create_task(prober.run())
        time.next()
        await settled(lambda: not prober._seen, "no look")
        for rounds in range(1, 6):
            time.next()
            await settled(lambda wanted=rounds: probes(fine) < wanted, "not asked")  # type: ignore[misc]
        await settled(lambda: not asked, "not asked")
        assert (probes(fine), len(asked)) == (5, 1)
        asked[0].set()
        await settled(lambda: prober._seen[hung].asked, "has not answered")
        time.next()
        await settled(lambda: len(asked) < 2, "not asked again")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        for replica in (hung, other):
            await replica.engine.aclose()


async def test_a_replica_that_is_gone_is_forgotten() -> None:
    with nobody() as url:
        site = Site(url)
        await site.look(0)
        site.pool.replicas = ()
        await site.look(100)
        assert site.prober._seen == {}


async def test_a_gateway_probes_by_itself_and_brings_an_engine_back_that_restarted() -> None:
    """R05."""
    probing = {"probe": {"every_s": 0.05, "idle_s": 0.1}}
    async with engine_running(error_rate=1.0) as engine, serving(config_of(engine, pool=probing, attempts=1)) as server:
        replica = server.gateway.pools["p"].replicas[0]
        for _ in range(3):
            await server.post(CHAT, chat())
        now_s = server.gateway.keepers[0]._clock.monotonic()
        replica.breaker._open_until_s = now_s + 1000
        engine.configure(error_rate=0.0)
        await settled(lambda: None if replica.breaker.allows(now_s + 5) else replica, "still open", 5.0)
        assert (await server.post(CHAT, chat())).status_code == 200
        assert "failures=0" in repr(replica.breaker)
