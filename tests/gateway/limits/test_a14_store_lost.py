"""The store of the limits frozen: nobody waits for it, each organisation has it as it chose, then it is back (A14)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.harness import CHAT, Json, Server, chat, config_of, engine_running, serving, settled
from tests.valkey import Valkey, valkey_running

TIMEOUT_S = 0.05
CHOICES = ("open", "closed", "slice")


@asynccontextmanager
async def counted(**limits: Any) -> AsyncIterator[tuple[Server, Valkey]]:
    """A gateway whose organisations are called by what they have chosen."""
    async with valkey_running() as valkey, engine_running() as engine:
        config: Json = config_of(engine, keys=[{"name": one, "key": f"key-of-{one}", "tenant": one} for one in CHOICES])
        config["tenants"] = {one: {"when_store_lost": one, "limits": limits} for one in CHOICES}
        config["redis"] = {"url": valkey.url, "timeout_s": TIMEOUT_S, "peers": False}
        async with serving(config) as server:
            yield server, valkey


async def ask(server: Server, tenant: str) -> httpx.Response:
    return await server.post(CHAT, chat(max_tokens=5), authorization=f"Bearer key-of-{tenant}")


async def degraded(server: Server) -> float:
    return (await server.metrics())["headrace_limits_degraded"]


async def is_lost(server: Server) -> None:
    await settled(lambda: None if server.gateway.ledger.shared.lost else "not lost", "", 2.0)


async def is_back(server: Server) -> None:
    await settled(lambda: "lost" if server.gateway.ledger.shared.lost else None, "", 3.0)


async def test_a14_each_organisation_has_it_as_it_chose_while_the_store_is_frozen() -> None:
    async with counted(requests_per_minute=4) as (server, valkey):
        valkey.freeze()
        assert (await ask(server, "open")).status_code == 200
        await is_lost(server)
        assert await degraded(server) == 1
        assert [(await ask(server, "open")).status_code for _ in range(8)] == [200] * 8
        closed = await ask(server, "closed")
        assert closed.status_code == 503
        assert closed.json()["error"]["code"] == "limits_unavailable"
        assert closed.headers["retry-after"] == "1"
        assert [(await ask(server, "slice")).status_code for _ in range(6)] == [200] * 4 + [429] * 2
        valkey.thaw()
        await is_back(server)
        assert await degraded(server) == 0
        assert (await ask(server, "closed")).status_code == 200


async def test_a14_nobody_waits_for_a_store_that_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    async with counted(requests_per_minute=100_000) as (server, valkey), server.client() as client:
        headers = {"authorization": "Bearer key-of-slice"}

        async def one() -> float:
            began_s = time.perf_counter()
            assert (await client.post(CHAT, json=chat(), headers=headers)).status_code == 200
            return time.perf_counter() - began_s

        usual = sorted([await one() for _ in range(100)])
        valkey.freeze()
        with caplog.at_level(logging.WARNING):
            frozen = sorted([await one() for _ in range(300)])
            await is_lost(server)
            await asyncio.sleep(1.2)
        valkey.thaw()
        await is_back(server)
        said = [r for r in caplog.records if r.name == "gateway.limits.exchange" and "store answers" not in r.message]
        assert len(said) == 1
        assert "no answer within redis.timeout_s of 0.05 s" in said[0].message
        assert frozen[-1] < usual[-1] + 2 * TIMEOUT_S, "those that found out"
        assert frozen[296] < usual[98] + TIMEOUT_S, "the 99th percentile"


async def test_a14_what_was_spent_meanwhile_is_told_to_the_store_when_it_is_back() -> None:
    """For days and months: a minute that is over need not be known."""
    async with counted(requests_per_day=20, requests_per_minute=1000) as (server, valkey):
        await ask(server, "slice")
        valkey.freeze()
        assert (await ask(server, "open")).status_code == 200
        await is_lost(server)
        for _ in range(5):
            assert (await ask(server, "slice")).status_code == 200
        valkey.thaw()
        await is_back(server)
        await settled(lambda: "owed" if server.gateway.ledger.shared._bills else None, "")
        await asyncio.sleep(0.1)
        answer = await ask(server, "slice")
        assert 20 - 8 <= int(answer.headers["x-ratelimit-remaining-requests"]) <= 20 - 7


async def test_a14_a_start_without_the_store_serves_at_once_and_finds_it_later() -> None:
    async with valkey_running() as valkey, engine_running() as engine:
        await valkey.kill()
        config = config_of(engine, keys=[{"name": "k", "key": "key-of-k", "tenant": "k"}])
        config["tenants"] = {"k": {"limits": {"requests_per_minute": 5}}}
        config["redis"] = {"url": valkey.url, "timeout_s": TIMEOUT_S, "peers": False}
        async with serving(config) as server:
            assert server.gateway.ledger.shared.lost
            assert (await ask(server, "k")).status_code == 200
            await valkey.start()
            await is_back(server)
            answer = await ask(server, "k")
            assert answer.headers["x-ratelimit-remaining-requests"] == "3", "the first one counts too"


async def test_a14_a_store_that_was_flushed_counts_anew_and_nothing_is_stuck() -> None:
    async with counted(requests_per_minute=3, parallel=2) as (server, valkey):
        assert [(await ask(server, "slice")).status_code for _ in range(4)] == [200] * 3 + [429]
        async with valkey.client() as redis:
            await redis.flushall()
        await asyncio.sleep(0.1)
        assert [(await ask(server, "slice")).status_code for _ in range(4)] == [200] * 3 + [429]
