"""Workers, database and office are killed while requests go on, and every call is accounted for (A15)."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config.load import parse_config
from gateway.usage.recompute import recompute
from gateway.usage.record import pricing_of
from gateway.usage.report import Query, report
from tests.gateway.supervised import chat, children, client, command, served
from tests.gateway.usage.office import Office, office
from tests.harness import config_of, engine_running, settled
from tests.postgres import Postgres, postgres_running, programs

PRICES = {"m": {"input": 3, "output": 15}}
KEY = "sk-ci"


def config(engine: Any, url: str, **more: Any) -> dict[str, Any]:
    tree = config_of(engine, server={"workers": 1}, keys=[{"name": "ci", "key": KEY}], **more)
    return tree | {"database": {"url": url}, "prices": PRICES, "admin": {"port": 0}}


async def ask(url: str, count: int) -> int:
    """How many of so many calls had a whole answer."""
    async with client(url, headers={"authorization": f"Bearer {KEY}"}) as http:
        return sum([(await http.post("/v1/chat/completions", json=chat())).status_code == 200 for _ in range(count)])


async def spooled(url: str) -> float:
    async with client(url) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("headrace_usage_records_total{"))


async def all_are_there(there: Office, count: int) -> None:
    """So many calls, each once, and their sum is that of their records."""
    rows = await there.rows(count)
    assert len(rows) == count and len({row.request_id for row in rows}) == count
    total = (await there.ask(report, Query())).total
    version = (await asyncio.to_thread(pricing_of, parse_config(f"prices: {PRICES}"))).version
    again = await there.ask(recompute, Query(), version)
    assert Decimal(total.usd) == sum(Decimal(row.usd) for row in rows) > 0
    assert (again.recomputed_usd, again.difference_usd, again.wrong.calls) == (total.usd, "0", 0)


async def test_a15_a_worker_is_killed_and_what_it_spooled_is_there(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/db"
    async with engine_running() as engine, served(tmp_path, config(engine, url)) as gateway:
        await gateway.ready()
        assert await ask(gateway.url, 5) == 5
        async with asyncio.timeout(10.0):
            while await spooled(gateway.url) < 5:
                await asyncio.sleep(0.01)
        (pid,) = gateway.workers()
        os.kill(pid, signal.SIGKILL)
        await settled(lambda: gateway.workers() in ([], [pid]), "no new worker", 20.0)
        async with asyncio.timeout(20.0):
            while True:
                try:
                    assert await ask(gateway.url, 5) == 5
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        async with office(url) as there:
            await all_are_there(there, 10)


async def test_a15_a_worker_is_killed_amid_requests_and_its_answers_are_accounted_for(tmp_path: Path) -> None:
    """But for the one call, at each kill, whose last byte was being sent: a worker does one thing at a time."""
    url = f"sqlite:///{tmp_path}/db"
    answered: set[str] = set()

    async def keep_asking(http: httpx.AsyncClient) -> None:
        while True:
            with suppress(httpx.TransportError):
                answer = await http.post("/v1/chat/completions", json=chat())
                assert answer.status_code == 200
                answered.add(answer.headers["x-request-id"])

    async with engine_running() as engine, served(tmp_path, config(engine, url)) as gateway:
        await gateway.ready()
        async with client(gateway.url, headers={"authorization": f"Bearer {KEY}"}) as http:
            asking = [asyncio.create_task(keep_asking(http)) for _ in range(4)]
            for wanted in (50, 100):
                await settled(lambda wanted=wanted: len(answered) < wanted, "no answers", 20.0)  # type: ignore[misc]
                (pid,) = gateway.workers()
                os.kill(pid, signal.SIGKILL)
                await settled(lambda pid=pid: gateway.workers() in ([], [pid]), "no new worker", 20.0)  # type: ignore[misc]
            await settled(lambda: len(answered) < 150, "no answers", 20.0)
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)
        async with office(url) as there:
            async with asyncio.timeout(10.0):
                while True:
                    rows = await there.rows(len(answered) - 2)
                    if len(answered - {row.request_id for row in rows}) <= 2:
                        break
                    await asyncio.sleep(0.05)
        assert len(rows) == len({row.request_id for row in rows})


async def test_after_the_end_everything_is_in_the_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/db"
    async with engine_running() as engine:
        async with served(tmp_path, config(engine, url)) as gateway:
            await gateway.ready()
            assert await ask(gateway.url, 5) == 5
        assert not list((tmp_path / "state" / "usage").glob("*.usage"))
        async with office(url) as there:
            await all_are_there(there, 5)


async def test_a15_the_office_is_killed_and_nothing_is_there_twice(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/db"
    async with engine_running() as engine, served(tmp_path, config(engine, url)) as gateway:
        await gateway.ready()
        async with office(url) as there:
            for round_ in range(1, 4):
                assert await ask(gateway.url, 20) == 20
                (pid,) = offices(gateway.pid)
                os.kill(pid, signal.SIGKILL)
                await settled(lambda pid=pid: offices(gateway.pid) in ([], [pid]), "no new office", 20.0)  # type: ignore[misc]
                assert len(await there.rows(round_ * 5)) <= round_ * 20
            await all_are_there(there, 60)


def offices(pid: int) -> list[int]:
    return [child for child in children(pid) if "gateway.office.process" in command(child)]


@pytest.fixture
def own_postgres() -> Any:
    if programs() is None:
        pytest.skip("there is no PostgreSQL server on this machine: install Debian's package postgresql")
    with postgres_running() as server:
        yield server


async def test_a15_the_database_is_killed_while_requests_go_on(tmp_path: Path, own_postgres: Postgres) -> None:
    url = own_postgres.url()
    async with engine_running() as engine, served(tmp_path, config(engine, url)) as gateway:
        await gateway.ready()
        async with office(url) as there:
            assert await ask(gateway.url, 5) == 5
            await there.rows(5)
            asking = asyncio.create_task(ask(gateway.url, 40))
            await asyncio.to_thread(own_postgres.kill)
            assert await asking == 40
            assert await ask(gateway.url, 5) == 5
            await asyncio.to_thread(own_postgres.start)
            await there.rows(50)
            own_postgres.freeze()
            assert await ask(gateway.url, 10) == 10
            own_postgres.thaw()
            await all_are_there(there, 60)
