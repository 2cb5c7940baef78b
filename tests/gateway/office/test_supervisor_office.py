"""Whole gateways over one database that is killed, frozen and gone (A15), and whose keys are revoked (A18)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from engines.fake import FakeEngine
from gateway.database import Database, open_database
from gateway.directory.specs import KeySpec, OrganisationSpec
from gateway.directory.store import Directory
from tests.gateway.office.rig import TESTER
from tests.gateway.supervised import Served, chat, children, client, command, served
from tests.harness import engine_running
from tests.postgres import Postgres, postgres_running, programs

pytestmark = pytest.mark.skipif(programs() is None, reason="there is no PostgreSQL server on this machine")
WITHIN_S = 20.0


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that may be killed."""
    with postgres_running() as server:
        yield server


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with engine_running() as running:
        yield running


def config(url: str, engine: FakeEngine, **more: Any) -> dict[str, Any]:
    return {
        "server": {"port": 0, "workers": 1} | more.pop("server", {}),
        "database": {"url": url} | more.pop("database", {}),
        "admin": {"port": 0} | more.pop("admin", {}),
        "pools": {"p": {"urls": [engine.url], "scrape": {"every_s": None}}},
        "deployments": {"m": {"variants": {"v": {"pools": ["p"]}}}},
        **more,
    }


class Keys:
    """Made in the database itself: `app` calls models, `admin` does not."""

    def __init__(self, database: Database) -> None:
        directory = Directory(database)
        directory.organisations.create(TESTER, OrganisationSpec(name="acme"))
        made = directory.keys.create(TESTER, KeySpec(name="app", organisation="acme"))
        self.app, self.app_id = made.key, made.record.id
        self.admin = directory.keys.create(TESTER, KeySpec(name="admin", role="admin")).key


async def keys_in(url: str) -> Keys:
    def make() -> Keys:
        database = open_database(url)
        try:
            return Keys(database)
        finally:
            database.close()

    return await asyncio.to_thread(make)


def admin_url(gateway: Served) -> str:
    return next(line for line in gateway.lines if "admin API on" in line).rpartition(" ")[2]


@asynccontextmanager
async def running(folder: Path, tree: dict[str, Any]) -> AsyncIterator[Served]:
    folder.mkdir(exist_ok=True)
    async with served(folder, tree) as gateway:
        await gateway.ready()
        yield gateway


async def call(gateway: Served, key: str) -> httpx.Response:
    async with client(gateway.url) as http:
        return await http.post("/v1/chat/completions", json=chat(), headers={"authorization": f"Bearer {key}"})


async def ask(gateway: Served, key: str, method: str, path: str, **options: Any) -> httpx.Response:
    async with client(admin_url(gateway)) as http:
        return await http.request(method, path, headers={"authorization": f"Bearer {key}"}, **options)


async def metric(gateway: Served, name: str) -> float:
    async with client(gateway.url) as http:
        text = (await http.get("/metrics")).text
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name} "))


async def becomes(right: Callable[[], Any], within_s: float = WITHIN_S) -> None:
    """Ask again until the answer is true."""
    async with asyncio.timeout(within_s):
        while not await right():
            await asyncio.sleep(0.05)


def offices(gateway: Served) -> list[int]:
    return [pid for pid in children(gateway.pid) if "gateway.office.process" in command(pid)]


async def test_a15_with_the_database_killed_known_keys_go_on_also_after_a_restart_of_everything(
    tmp_path: Path, own_postgres: Postgres, engine: FakeEngine
) -> None:
    url = own_postgres.new_database()
    keys, tree = await keys_in(url), config(url, engine)
    async with running(tmp_path, tree) as gateway:
        assert (await call(gateway, keys.app)).status_code == 200
        assert await metric(gateway, "headrace_database_up") == 1.0
        await asyncio.to_thread(own_postgres.kill)
        await becomes(lambda: _is(metric(gateway, "headrace_database_up"), 0.0))
        assert (await call(gateway, keys.app)).status_code == 200
        away = await ask(gateway, keys.admin, "GET", "/keys")
        assert (away.status_code, away.json()["error"]["code"]) == (503, "database_away")
        assert "retry-after" in away.headers
    async with running(tmp_path, tree) as gateway:
        assert (await call(gateway, keys.app)).status_code == 200
        assert (await call(gateway, "sk-hr-000000000000-unknown")).status_code == 401
        assert (await ask(gateway, keys.admin, "GET", "/pools")).status_code == 200
        assert await metric(gateway, "headrace_database_up") == 0.0
        await asyncio.to_thread(own_postgres.start)
        await becomes(lambda: _is(metric(gateway, "headrace_database_up"), 1.0))
        made = await ask(gateway, keys.admin, "POST", "/keys", json={"name": "new", "organisation": "acme"})
        assert made.status_code == 201, made.text
        await becomes(lambda: _is(_status(gateway, made.json()["key"]), 200))
        assert len([line for line in gateway.lines if "the database is away" in line]) <= 2


async def test_a15_with_the_database_frozen_nothing_waits_and_after_the_grace_its_keys_do(
    tmp_path: Path, own_postgres: Postgres, engine: FakeEngine
) -> None:
    url = own_postgres.new_database()
    keys = await keys_in(url)
    auth = {"keys": [{"name": "file", "key": "sk-file"}]}
    async with running(tmp_path, config(url, engine, database={"grace_s": 5.0}, auth=auth)) as gateway:
        assert (await call(gateway, keys.app)).status_code == 200
        own_postgres.freeze()
        try:
            frozen_s = time.monotonic()
            slowest_s = 0.0
            while time.monotonic() < frozen_s + 3.0:
                began_s = time.monotonic()
                assert (await call(gateway, keys.app)).status_code == 200
                slowest_s = max(slowest_s, time.monotonic() - began_s)
            assert slowest_s < 1.0
            await becomes(lambda: _is(_status(gateway, keys.app), 503))
            stale = await call(gateway, keys.app)
            assert stale.json()["error"]["code"] == "directory_stale"
            assert int(stale.headers["retry-after"]) <= 120
            assert (await call(gateway, "sk-file")).status_code == 200
            assert (await call(gateway, "sk-hr-000000000000-unknown")).status_code == 401
        finally:
            own_postgres.thaw()
        await becomes(lambda: _is(_status(gateway, keys.app), 200))


async def test_a18_a_revoked_key_stops_working_on_two_gateways_within_a_second(
    tmp_path: Path, postgres: Postgres, engine: FakeEngine, record_property: Callable[[str, object], None]
) -> None:
    url = postgres.new_database()
    keys, delays_s = await keys_in(url), []
    async with (
        running(tmp_path / "a", config(url, engine, server={"workers": 2})) as first,
        running(tmp_path / "b", config(url, engine)) as second,
    ):
        for index in range(3):
            body = {"name": f"k{index}", "organisation": "acme"}
            made = (await ask(first, keys.admin, "POST", "/keys", json=body)).json()
            for gateway in (first, second):
                await becomes(lambda gateway=gateway, made=made: _is(_status(gateway, made["key"]), 200))  # type: ignore[misc]
            revoked = await ask(first, keys.admin, "POST", f"/keys/{made['record']['id']}/revoke")
            assert revoked.json()["state"] == "revoked"
            began_s = time.monotonic()
            delays_s += await asyncio.gather(*(_refused(gateway, made["key"], began_s) for gateway in (first, second)))
        assert (await call(second, keys.app)).status_code == 200
    record_property("revocation_delay_s", max(delays_s))
    print(f"revocation: at most {max(delays_s):.3f} s, {[round(delay, 3) for delay in delays_s]}")
    assert max(delays_s) < 1.0


async def _refused(gateway: Served, key: str, began_s: float) -> float:
    """How long every worker took to refuse a key."""
    in_a_row, refused_s = 0, 0.0
    async with client(gateway.url) as http:
        while in_a_row < 4:
            answer = await http.get("/v1/models", headers={"authorization": f"Bearer {key}", "connection": "close"})
            if answer.status_code == 401:
                in_a_row += 1
                refused_s = time.monotonic() if in_a_row == 1 else refused_s
            else:
                in_a_row = 0
            await asyncio.sleep(0.01)
    return refused_s - began_s


async def test_an_office_that_is_killed_comes_back_and_workers_go_on_meanwhile(
    tmp_path: Path, engine: FakeEngine
) -> None:
    url = f"sqlite:///{tmp_path}/headrace.db"
    keys = await keys_in(url)
    async with running(tmp_path, config(url, engine)) as gateway:
        (before,) = offices(gateway)
        assert (await ask(gateway, keys.admin, "GET", "/keys")).status_code == 200
        os.kill(before, signal.SIGKILL)
        assert (await call(gateway, keys.app)).status_code == 200
        await gateway.said(r"the office \(process \d+\) ended: .*; a new one starts in")
        answer = await ask(gateway, keys.admin, "POST", f"/keys/{keys.app_id}/revoke")
        assert answer.status_code == 200, "the port is kept, and the new office answers on it"
        await becomes(lambda: _is(_status(gateway, keys.app), 401))
        assert offices(gateway) != [before]


async def test_the_office_ends_with_a_supervisor_that_is_killed(tmp_path: Path, engine: FakeEngine) -> None:
    url = f"sqlite:///{tmp_path}/headrace.db"
    await keys_in(url)
    async with running(tmp_path, config(url, engine)) as gateway:
        (office,) = offices(gateway)
        gateway.signal(signal.SIGKILL)
        await becomes(lambda: _is(_gone(office), True))


async def test_an_office_that_ends_again_and_again_is_told_as_such(tmp_path: Path, engine: FakeEngine) -> None:
    url = f"sqlite:///{tmp_path}/headrace.db"
    keys = await keys_in(url)
    async with running(tmp_path, config(url, engine)) as gateway:
        before: list[int] = []
        for _ in range(4):
            await becomes(lambda before=before: _another(gateway, before))  # type: ignore[misc]
            while not (found := offices(gateway)):  # between its fork and its own command line
                await asyncio.sleep(0.01)
            before = found
            os.kill(before[0], signal.SIGKILL)
        await gateway.said("it is in a crash loop, the next start is in")
        assert (await call(gateway, keys.app)).status_code == 200
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended() == 0


async def test_told_twice_to_stop_the_supervisor_ends_an_office_that_hangs(tmp_path: Path, engine: FakeEngine) -> None:
    url = f"sqlite:///{tmp_path}/headrace.db"
    await keys_in(url)
    async with running(tmp_path, config(url, engine)) as gateway:
        (office,) = offices(gateway)
        (worker,) = gateway.workers()
        os.kill(office, signal.SIGSTOP)
        gateway.signal(signal.SIGTERM)
        await becomes(lambda: _is(_gone(worker), True))
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended() == 128 + signal.SIGTERM
        await becomes(lambda: _is(_gone(office), True))


async def test_the_office_follows_the_configuration(tmp_path: Path, engine: FakeEngine) -> None:
    url = f"sqlite:///{tmp_path}/headrace.db"
    keys, tree = await keys_in(url), config(url, engine)
    plain = {name: section for name, section in tree.items() if name not in ("database", "admin")}
    async with running(tmp_path, plain) as gateway:
        assert offices(gateway) == []
        assert (await call(gateway, "anything")).status_code == 200
        await _apply(gateway, tree, 1)
        (first,) = offices(gateway)
        assert (await call(gateway, "anything")).status_code == 401
        assert (await call(gateway, keys.app)).status_code == 200
        tree["deployments"]["n"] = tree["deployments"]["m"]
        await _apply(gateway, tree, 2)
        assert offices(gateway) == [first], "nothing that it reads has changed"
        before = admin_url(gateway)
        tree["admin"]["requests_per_second"] = 50
        await _apply(gateway, tree, 3)
        await becomes(lambda: _is(_gone(first), True))
        answer = await ask(gateway, keys.admin, "GET", "/organisations")
        assert answer.status_code == 200
        assert admin_url(gateway) == before
        await _apply(gateway, plain, 4)
        await becomes(lambda: _is(_none_left(gateway), True))
        assert (await call(gateway, "anything")).status_code == 200


async def test_an_admin_address_that_is_taken_is_no_reason_to_stop(tmp_path: Path, engine: FakeEngine) -> None:
    url = f"sqlite:///{tmp_path}/headrace.db"
    keys, tree = await keys_in(url), config(url, engine)
    async with running(tmp_path, tree) as gateway:
        taken = int(gateway.url.rpartition(":")[2])
        tree["admin"]["port"] = taken
        gateway.file.write_text(json.dumps(tree))
        await gateway.said(
            rf"port {taken} of 127.0.0.1 is in use by another program; choose another one with admin.port"
        )
        assert (await ask(gateway, keys.admin, "GET", "/organisations")).status_code == 200
        assert (await call(gateway, keys.app)).status_code == 200


async def _apply(gateway: Served, tree: dict[str, Any], number: int) -> None:
    gateway.file.write_text(json.dumps(tree))
    await gateway.said(r"the new configuration serves", number)


async def _is(answer: Any, wanted: object) -> bool:
    try:
        return bool(await answer == wanted)
    except (StopIteration, RuntimeError):
        return False


async def _status(gateway: Served, key: str) -> int:
    return (await call(gateway, key)).status_code


async def _another(gateway: Served, before: list[int]) -> bool:
    return bool(offices(gateway)) and offices(gateway) != before


async def _gone(pid: int) -> bool:
    return not command(pid)


async def _none_left(gateway: Served) -> bool:
    return not offices(gateway)
