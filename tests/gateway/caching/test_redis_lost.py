"""The Redis of the cache frozen, killed, or never there, under traffic: every call is answered and none waits for it.
When it is back, it is told what was kept meanwhile."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest

from cache.journal import redis as module
from engines.commands import free_port
from tests.engines.server import Peer, engine_server
from tests.gateway.caching.scribe import Given, Scribe, ask, scribe_running
from tests.harness import Json, Server, chat, config_of, serving, settled
from tests.valkey import Valkey, valkey_running

TIMEOUT_S = 0.5
CALLS = 200
ROUNDS = 3
FEW_MS = 100.0
"""More than usual. Whoever waited for Redis would take `TIMEOUT_S`, and more."""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found to be away, and back, within a moment."""
    monkeypatch.setattr(module, "AGAIN_S", 0.05)
    monkeypatch.setattr(module, "LONGEST_AGAIN_S", 0.1)
    monkeypatch.setattr(module, "CONNECT_S", 0.3)


def config(scribe: Scribe, redis_url: str) -> Json:
    found = config_of(scribe.url, cache={"enabled": True, "store": "redis"})
    return found | {"redis": {"url": redis_url, "timeout_s": TIMEOUT_S, "peers": False}}


def journal(server: Server) -> str:
    """How the store is: "ok" or "away"."""
    assert server.gateway._caching is not None
    return server.gateway._caching._journal.status().state


async def is_away(*servers: Server) -> None:
    await settled(lambda: [one for one in servers if journal(one) != "away"], "it was not noticed")


async def is_back(*servers: Server) -> None:
    def owed() -> list[str]:
        return [state for state in map(_owed, servers) if state]

    await settled(owed, "it is not back", 5.0)


def _owed(server: Server) -> str:
    assert server.gateway._caching is not None
    status = server.gateway._caching._journal.status()
    return "" if status.state == "ok" and not status.waiting else str(status)


@dataclass
class Traffic:
    """Of one client, which asks everything four times. asked: how much so far."""

    client: httpx.AsyncClient
    name: str
    asked: int = 0

    async def some(self, calls: int = CALLS) -> float:
        """The 99th percentile of how long they took, in ms. Each must be answered, three in four from the cache."""
        took_s = []
        for number in range(calls):
            question = f"{self.name} {self.asked + number // 4}"
            began_s = time.perf_counter()
            got = await ask(self.client, chat(question, stream=number % 3 == 0))
            took_s.append(time.perf_counter() - began_s)
            assert got.source == ("hit" if number % 4 else "miss")
        self.asked += math.ceil(calls / 4)
        return 1000 * sorted(took_s)[math.ceil(0.99 * calls) - 1]

    async def rounds(self) -> float:
        """The same of the round in which the machine itself stalled least."""
        return min([await self.some() for _ in range(ROUNDS)])


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Valkey, Scribe, tuple[Server, Server], tuple[Traffic, Traffic]]]:
    """Two gateways that share a Redis."""
    async with AsyncExitStack() as stack:
        valkey = await stack.enter_async_context(valkey_running())
        scribe = await stack.enter_async_context(scribe_running())
        servers = [await stack.enter_async_context(serving(config(scribe, valkey.url))) for _ in range(2)]
        clients = [await stack.enter_async_context(server.client()) for server in servers]
        first, second = (Traffic(client, name) for client, name in zip(clients, ("one", "two"), strict=True))
        yield valkey, scribe, (servers[0], servers[1]), (first, second)


async def has_it(client: httpx.AsyncClient, question: str) -> Given:
    """Ask once the gateway has heard of it from the other one."""
    return await ask(client, chat(question), cache_control="only-if-cached")


async def test_a_frozen_redis_is_noticed_by_no_call_and_told_of_all_when_it_goes_on() -> None:
    async with pair() as (valkey, scribe, servers, (first, second)):
        usual_ms = await first.rounds()
        valkey.freeze()
        try:
            finding_out_ms = await first.some()
            await is_away(*servers)
            frozen_ms = await first.rounds()
            await second.some(20)
        finally:
            valkey.thaw()
        await is_back(*servers)
        assert finding_out_ms < usual_ms + TIMEOUT_S * 500, "those who find out"
        assert frozen_ms < usual_ms + FEW_MS, "those after them"
        calls = scribe.calls
        await asyncio.sleep(3 * module.TAIL_S)
        for other, mine in ((second, first), (first, second)):
            for number in range(mine.asked):
                assert (await has_it(other.client, f"{mine.name} {number}")).source == "hit"
        assert scribe.calls == calls


async def test_a_redis_that_is_killed_under_traffic_fails_no_call_and_is_told_of_the_rest_when_it_is_back() -> None:
    """It comes back empty: what was told before is gone from it, and in the gateways."""
    async with pair() as (valkey, _, servers, (first, second)):
        usual_ms = await first.rounds()
        going_on = asyncio.create_task(first.some())
        await asyncio.sleep(0.05)
        await valkey.kill()
        finding_out_ms = await going_on
        await is_away(*servers)
        gone_ms = await first.rounds()
        kept_since = first.asked
        await first.some(40)
        assert finding_out_ms < usual_ms + TIMEOUT_S * 500
        assert gone_ms < usual_ms + FEW_MS
        await valkey.start()
        await is_back(*servers)
        await asyncio.sleep(3 * module.TAIL_S)
        for number in range(kept_since, first.asked):
            assert (await has_it(second.client, f"one {number}")).source == "hit"
        for number in range(first.asked):
            assert (await has_it(first.client, f"one {number}")).source == "hit"


async def stays_silent(peer: Peer) -> None:
    await peer.closed()


async def hangs_up(peer: Peer) -> None:
    peer.reset()


async def talks_rubbish(peer: Peer) -> None:
    peer.send_now(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3)
    await peer.closed()


@pytest.mark.parametrize("script", [None, stays_silent, hangs_up, talks_rubbish])
async def test_one_that_refuses_hangs_up_or_says_nothing_is_a_miss_and_no_error(script: object) -> None:
    async with AsyncExitStack() as stack:
        url = f"redis://127.0.0.1:{free_port()}"
        if script is not None:
            url = await stack.enter_async_context(engine_server(script))  # type: ignore[arg-type]
            url = url.replace("http:", "redis:")
        scribe = await stack.enter_async_context(scribe_running())
        began_s = time.monotonic()
        server = await stack.enter_async_context(serving(config(scribe, url)))
        assert time.monotonic() - began_s < 3.0
        traffic = Traffic(await stack.enter_async_context(server.client()), "one")
        await traffic.some(60)
        await is_away(server)
        await traffic.some(60)
