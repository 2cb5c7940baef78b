"""Every kind of fault at two replicas of three at once: no request is lost, none answered twice (R04).

The fast and certain part of `tests/e2e/test_chaos.py`, on the same proxies and with the same judgement.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from engines.fake import FakeEngine
from tests.e2e.chaos.client import Asked, Fate, ask
from tests.e2e.chaos.faults import MALFORMED
from tests.e2e.chaos.ledger import Ledger
from tests.e2e.chaos.proxy import Behaviour, ChaosProxy, Cutting, HalfClosing, Resetting, Silent, Trickling
from tests.e2e.chaos.report import offences_of
from tests.harness import Server, config_of, engine_running, serving, settled

REQUESTS = 12
LIMITS = {"connect_s": 0.5, "ttft_s": 1.0, "idle_s": 0.5, "total_s": 30.0}
"""Short, since a fault that is silence costs this long; yet longer than a busy machine keeps the good replica."""
PATIENT = {**LIMITS, "connect_s": 10.0, "ttft_s": 10.0}
"""For faults that show at once: none of the attempts is lost to a busy machine."""
BEHAVIOURS: dict[str, Callable[[], Behaviour]] = {
    "never answers": Silent,
    "RST": Resetting,
    "closed before the head": lambda: Cutting(random.Random(1), range(1), orderly=True),
    "cut before the head": lambda: Cutting(random.Random(1), range(1), orderly=False),
    "half-closed": lambda: HalfClosing(random.Random(1), range(1)),
    "slow loris": lambda: Trickling(random.Random(1), (0.1,)),
}


class Site:
    """Three engines behind proxies, and a gateway in front of them."""

    def __init__(self, server: Server, engines: list[FakeEngine], proxies: list[ChaosProxy], ledger: Ledger) -> None:
        self.server = server
        self.engines = engines
        self.proxies = proxies
        self.ledger = ledger
        self._asked = 0

    async def ask(self, count: int = REQUESTS, *, stream: bool = False) -> list[Asked]:
        """So many requests at once, half of them streams, or all."""
        first, self._asked = self._asked, self._asked + count
        all_asked = [Asked(f"subset-{n}", stream=stream or n % 2 == 0) for n in range(first, self._asked)]
        address = (self.server.host, self.server.port)
        return await asyncio.gather(*(ask(address, "unused", asked) for asked in all_asked))

    def offences(self, all_asked: list[Asked]) -> list[str]:
        return [one for asked in all_asked for one in offences_of(asked, self.ledger.of(asked.request_id))]


@asynccontextmanager
async def site(timeouts: dict[str, float] = LIMITS) -> AsyncIterator[Site]:
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(engine_running()) for _ in range(3)]
        proxies = [ChaosProxy(number, ledger, engine.port) for number, engine in enumerate(engines)]
        for proxy in proxies:
            stack.push_async_callback(proxy.aclose)
            await proxy.listen()
        config = config_of(*(proxy.url for proxy in proxies), policy="round_robin", timeouts=timeouts, retry_share=1.0)
        server = await stack.enter_async_context(serving(config))
        yield Site(server, engines, proxies, ledger)


async def check(at: Site) -> None:
    """With the third replica alone, all are answered, by it and once."""
    found = await at.ask()
    assert at.offences(found) == []
    assert [asked.fate for asked in found] == [Fate.ANSWERED] * REQUESTS
    assert any(asked.attempts > 1 for asked in found), "nobody met the fault"


@pytest.mark.parametrize("kind", BEHAVIOURS)
async def test_r04_two_replicas_on_a_broken_network_cost_no_answer(kind: str) -> None:
    async with site() as at:
        await at.ask(6)  # so that there are connections to break
        for proxy in at.proxies[:2]:
            proxy.behaviour = BEHAVIOURS[kind]()
        await check(at)


async def test_r04_two_replicas_that_refuse_connections_cost_no_answer() -> None:
    async with site() as at:
        await at.ask(6)
        for proxy in at.proxies[:2]:
            proxy.refuse()
            proxy.cut_all(reset=True)
        await check(at)


async def test_r04_two_replicas_that_take_no_connection_cost_no_answer() -> None:
    async with site() as at, at.proxies[0].full_backlog(), at.proxies[1].full_backlog():
        await check(at)


@pytest.mark.parametrize("status", [429, 503])
async def test_r04_two_full_replicas_cost_no_answer(status: int) -> None:
    async with site(PATIENT) as at:
        for engine in at.engines[:2]:
            engine.configure(error_rate=1.0, error_status=status)
        await check(at)


@pytest.mark.parametrize("how", MALFORMED)
async def test_r04_what_is_no_answer_is_given_by_another_or_broken_off_aloud(how: str) -> None:
    async with site(PATIENT) as at:
        for engine in at.engines[:2]:
            engine.configure(malformed=how)
        found = await at.ask()
        assert at.offences(found) == []
        assert all(asked.fate is Fate.ANSWERED or asked.stream for asked in found)


async def test_r04_a_replica_that_dies_between_two_tokens_breaks_off_its_streams_alone() -> None:
    async with site() as at:
        at.engines[0].configure(itl_s=0.005)
        at.proxies[0].behaviour = Cutting(random.Random(1), range(1000, 2000))
        found = await at.ask(stream=True)
        assert at.offences(found) == []
        broken = {asked.request_id for asked in found if asked.fate is Fate.BROKEN_OFF}
        assert broken == {asked.request_id for asked in found if at.ledger.of(asked.request_id)[0].replica == 0}


async def test_r04_replicas_that_are_back_get_requests_again() -> None:
    async with site() as at:
        for proxy in at.proxies[:2]:
            proxy.refuse()
            proxy.cut_all()
        await check(at)
        for proxy in at.proxies[:2]:
            await proxy.listen()
        now_s, replicas = at.server.gateway.pipeline.clock.monotonic, at.server.gateway.replicas
        await settled(lambda: [r for r in replicas if not r.breaker.allows(now_s())], "never tried again")
        found = await at.ask()
        assert at.offences(found) == []
        assert {a.replica for asked in found for a in at.ledger.of(asked.request_id)} == {0, 1, 2}
