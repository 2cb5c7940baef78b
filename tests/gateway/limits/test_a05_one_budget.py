"""One limit over several gateways, each a process of its own, and one Valkey (A05)."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.supervised import Served, client, served
from tests.harness import CHAT, chat, config_of, engine_running, settled
from tests.valkey import valkey_running

KEY = "key-for-tests"
GIVEN_BACK_S = 0.5
E2E = pytest.mark.e2e


@asynccontextmanager
async def gateways(folder: Path, count: int, **limits: Any) -> AsyncIterator[list[httpx.AsyncClient]]:
    async with AsyncExitStack() as stack:
        valkey = await stack.enter_async_context(valkey_running())
        engine = await stack.enter_async_context(engine_running())
        config = config_of(engine, keys=[{"name": "team", "key": KEY, "tenant": "acme"}], server={"workers": 1})
        config |= {"tenants": {"acme": {"limits": limits}}, "redis": {"url": valkey.url, "timeout_s": 2.0}}
        config["telemetry"] = {"access_log": {"format": "off"}}
        running: list[Served] = []
        for number in range(count):
            place = folder / str(number)
            place.mkdir()
            running.append(await stack.enter_async_context(served(place, config)))
        for one in running:
            await one.ready()
        headers = {"authorization": f"Bearer {KEY}"}
        yield [await stack.enter_async_context(client(one.url, headers=headers)) for one in running]


async def flood(clients: Sequence[httpx.AsyncClient], requests: int, parallel: int, **body: Any) -> Counter[int]:
    """Statuses of so many requests, sent to all gateways in turn."""
    found: Counter[int] = Counter()
    turns = itertools.cycle(clients)
    numbers = iter(range(requests))

    async def caller() -> None:
        for _ in numbers:
            found[(await next(turns).post(CHAT, json=chat(**body))).status_code] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(parallel):
            group.create_task(caller())
    return found


@pytest.mark.parametrize(
    ("count", "limit"),
    [
        (1, 30),
        (2, 700),
        pytest.param(1, 700, marks=E2E),
        pytest.param(2, 30, marks=E2E),
        pytest.param(4, 30, marks=E2E),
        pytest.param(4, 700, marks=E2E),
    ],
)
async def test_a05_gateways_admit_together_what_one_may(tmp_path: Path, count: int, limit: int) -> None:
    """Not one request more, and in the end not one less."""
    async with gateways(tmp_path, count, requests_per_minute=limit) as clients:
        began_s = asyncio.get_running_loop().time()
        found = await flood(clients, limit + 100, 40)
        assert set(found) == {200, 429}
        assert found[200] <= limit
        first = found[200]
        await asyncio.sleep(GIVEN_BACK_S)
        found += await flood(clients, 2 * (limit - first) + 20, 1)
        assert asyncio.get_running_loop().time() - began_s < 55, "else the first ones may be forgotten"
        assert found[200] == limit, f"{first} at first"
        assert first >= 0.99 * limit


@pytest.mark.parametrize("count", [2, pytest.param(1, marks=E2E), pytest.param(4, marks=E2E)])
async def test_a05_tokens_are_counted_together(tmp_path: Path, count: int) -> None:
    """All calls are alike, so that what each uses is known from the first."""
    async with gateways(tmp_path, count, tokens_per_minute=8_000) as clients:
        first = await clients[0].post(CHAT, json=chat(max_tokens=16))
        used = first.json()["usage"]["total_tokens"]
        limit = 8_000 // used
        found = await flood(clients, limit + 60, 20, max_tokens=16)
        found[200] += 1
        assert found[200] <= limit
        await asyncio.sleep(GIVEN_BACK_S)
        found += await flood(clients, 20, 1, max_tokens=16)
        assert limit - 2 <= found[200] <= limit, found


async def on_connections_of_their_own(gateway: Served, requests: int) -> Counter[int]:
    """So that all workers get some."""
    found: Counter[int] = Counter()
    headers = {"authorization": f"Bearer {KEY}"}
    for _ in range(requests):
        async with client(gateway.url, headers=headers) as http:
            found[(await http.post(CHAT, json=chat())).status_code] += 1
    return found


@pytest.mark.parametrize("disturbed", ["by nothing", "by a reload", "by a crash"])
async def test_a05_workers_share_a_limit_without_any_server_to_set_up(tmp_path: Path, disturbed: str) -> None:
    """Windows outlive reloads and crashes of workers. What is in flight at a crash counts for three seconds more."""
    async with engine_running() as engine:
        config = config_of(engine, keys=[{"name": "team", "key": KEY, "tenant": "acme"}], server={"workers": 2})
        config["tenants"] = {"acme": {"limits": {"requests_per_minute": 40}}}
        async with served(tmp_path, config) as gateway:
            await gateway.ready()
            found = await on_connections_of_their_own(gateway, 25)
            if disturbed == "by a reload":
                config["server"]["sse_keepalive_s"] = 10
                gateway.file.write_text(json.dumps(config))
                gateway.signal(signal.SIGHUP)
                await gateway.said("the new configuration serves")
            elif disturbed == "by a crash":
                before = gateway.workers()
                os.kill(before[0], signal.SIGKILL)
                await settled(lambda: len(set(gateway.workers()) - {before[0]}) < 2, "no new worker", 10.0)
            found += await on_connections_of_their_own(gateway, 30)
            assert found == {200: 40, 429: 15}
