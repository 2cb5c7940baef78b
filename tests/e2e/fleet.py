"""Several gateways over one Valkey and one PostgreSQL, in front of one engine: each of them processes of its own."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx

from tests.bench.rig import EngineProcess, engine_process
from tests.gateway.supervised import Served, client, served
from tests.gateway.test_a17_gateways import admin_key, admin_of
from tests.gateway.usage.office import Office, office
from tests.harness import NO_SCRAPE, Json, config_of, metrics_in
from tests.postgres import Postgres, postgres_running
from tests.valkey import Valkey, valkey_running

PRICES: Json = {"m": {"input": 3, "output": 15, "cached_input": 0.3}}
STORE_TIMEOUT_S = 2.0
"""So long that no stall of the machine looks like a store that is lost."""
ANSWERS = 6
"""A key counts as known, or a configuration as served, once so many new connections in a row say so: each of a
gateway's workers takes some of them."""
KNOWN_S = 20.0
T = TypeVar("T")


@dataclass
class Fleet:
    """admin: who may do everything, at the admin API of the first gateway. reader: of what is in the database."""

    engine: EngineProcess
    valkey: Valkey
    postgres: Postgres
    config: Json
    gateways: list[Served]
    admin: httpx.AsyncClient
    reader: Office

    @property
    def urls(self) -> list[str]:
        return [one.url for one in self.gateways]

    async def organisation(self, name: str, **settings: Any) -> None:
        answer = await self.admin.post("/organisations", json={"name": name, **settings})
        assert answer.status_code == 201, answer.text

    async def key(self, name: str, organisation: str, **settings: Any) -> tuple[str, str]:
        """A new one, and its id; all gateways know it."""
        answer = await self.admin.post("/keys", json={"name": name, "organisation": organisation, **settings})
        assert answer.status_code == 201, answer.text
        made = answer.json()
        await self.everywhere(lambda url: self.status(url, made["key"]), 200)
        return made["key"], made["record"]["id"]

    @staticmethod
    async def status(url: str, key: str) -> int:
        """What a worker says to the key: whichever takes a new connection."""
        async with client(url) as http:
            return (await http.get("/v1/models", headers={"authorization": f"Bearer {key}"})).status_code

    async def everywhere(self, ask: Callable[[str], Coroutine[Any, Any, T]], wanted: T) -> None:
        """Wait until all workers of all gateways answer so."""

        async def one(url: str) -> None:
            in_a_row = 0
            while in_a_row < ANSWERS:
                in_a_row = in_a_row + 1 if await ask(url) == wanted else 0
                await asyncio.sleep(0.02)

        async with asyncio.timeout(KNOWN_S), asyncio.TaskGroup() as group:
            for url in self.urls:
                group.create_task(one(url))

    async def metrics(self) -> list[dict[str, float]]:
        """Of each gateway."""
        found = []
        for url in self.urls:
            async with client(url) as http:
                found.append(metrics_in((await http.get("/metrics")).text))
        return found

    async def counted(self, meter: str) -> int:
        """Units in the window of the meter that has this at the end of its name, as Valkey counts them."""
        keys = cast("list[bytes]", await self.valkey.do("KEYS", f"*{meter}}}"))
        assert len(keys) == 1, keys
        return int(cast("bytes", await self.valkey.do("HGET", keys[0].decode(), "t")))

    async def in_flight(self) -> dict[str, list[str]]:
        """What Valkey counts of requests in flight, by meter: empty when there is nothing."""
        found = {}
        for key in cast("list[bytes]", await self.valkey.do("KEYS", "*|now}")):
            held = cast("list[bytes]", await self.valkey.do("HVALS", key.decode()))
            if held:
                found[key.decode()] = [one.decode() for one in held]
        return found


@asynccontextmanager
async def fleet_running(
    count: int,
    *flags: str,
    addresses: Callable[[EngineProcess], list[str]] = lambda engine: [engine.url],
    redis: Json | None = None,
    **more: Any,
) -> AsyncIterator[Fleet]:
    """flags: of the engine. addresses: under which the gateways know it. redis, more: of the configuration."""
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(_postgres())
        valkey = await stack.enter_async_context(valkey_running())
        engine = await stack.enter_async_context(engine_process(*flags))
        config: Json = config_of(*addresses(engine), server={"workers": 2 if count < 4 else 1, "drain_s": 2})
        config["pools"]["p"]["scrape"] = NO_SCRAPE
        config["telemetry"] = {"access_log": {"format": "off"}}
        config["database"] = {"url": await asyncio.to_thread(postgres.new_database)}
        config["admin"] = {"port": 0, "requests_per_second": 1000}
        config["redis"] = {"url": valkey.url, "timeout_s": STORE_TIMEOUT_S} | (redis or {})
        config["prices"] = PRICES
        config = _joined(config, more)
        key = await asyncio.to_thread(admin_key, config["database"]["url"], "admin")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        gateways = []
        for number in range(count):
            (folder / str(number)).mkdir()
            gateways.append(await stack.enter_async_context(served(folder / str(number), config)))
        for gateway in gateways:
            await gateway.ready()
        admin = await stack.enter_async_context(admin_of(gateways[0], key))
        reader = await stack.enter_async_context(office(config["database"]["url"]))
        try:
            yield Fleet(engine, valkey, postgres, config, gateways, admin, reader)
        except BaseException:
            for gateway in gateways:
                print("\n".join(["", gateway.url, *gateway.lines[-20:]]))
            raise


@asynccontextmanager
async def _postgres() -> AsyncIterator[Postgres]:
    running = postgres_running()
    server = await asyncio.to_thread(running.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


def _joined(tree: Json, more: Json) -> Json:
    """With what `more` says, section by section."""
    for name, value in more.items():
        both = isinstance(value, dict) and isinstance(tree.get(name), dict)
        tree[name] = _joined(tree[name], value) if both else value
    return tree


def figures(requirement: str, processes: int, **found: float | str) -> None:
    """Print what a test has found, and add it as a line of JSON to the file that HEADRACE_FIGURES names."""
    line = {"requirement": requirement, "processes": processes} | found
    print("\n" + ", ".join(f"{name} {value}" for name, value in line.items()))
    if path := os.environ.get("HEADRACE_FIGURES"):
        with Path(path).open("a") as file:
            file.write(json.dumps(line) + "\n")
