"""A17: what is applied through the admin API of one gateway serves on every gateway of the database."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from engines.fake import FakeEngine
from gateway.database import open_database
from gateway.directory.audit import Actor, AuditLog
from gateway.directory.specs import KeySpec
from gateway.directory.store import Directory
from tests.gateway.supervised import Served, served
from tests.gateway.test_a17_running import headrace, version_of
from tests.harness import Json, config_of, engine_running

LIMIT_S = 2.0


def admin_key(database_url: str, role: str = "operator") -> str:
    database = open_database(database_url)
    try:
        spec = KeySpec.model_validate({"name": f"{role}-key", "role": role})
        return Directory(database).keys.create(Actor("test"), spec).key
    finally:
        database.close()


def config_for(engine: FakeEngine | None, database_url: str, more: int = 0) -> Json:
    config = config_of(*([engine] if engine else []), server={"workers": 1, "drain_s": 5})
    for number in range(more):
        config["deployments"][f"more-{number}"] = config["deployments"]["m"]
    return config | {"database": {"url": database_url}, "admin": {"port": 0}}


def admin_url(gateway: Served) -> str:
    found = re.search(r"admin API on (\S+)", gateway.text)
    assert found, gateway.text
    return found[1]


@asynccontextmanager
async def admin_of(gateway: Served, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """Who talks to the admin API of a gateway, once its office knows the key."""
    await gateway.ready()
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=admin_url(gateway), headers=headers, trust_env=False, timeout=20.0) as http:
        async with asyncio.timeout(25.0):
            while await _status(http) != 200:
                await asyncio.sleep(0.05)
        yield http


async def _status(http: httpx.AsyncClient) -> int:
    try:
        return (await http.get("/config")).status_code
    except httpx.HTTPError:
        return 0


async def serves(gateway: Served, version: str, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while await version_of(gateway.url) != version:
            await asyncio.sleep(0.02)


async def test_what_one_gateway_is_given_serves_on_all_within_two_seconds(tmp_path: Path, database_url: str) -> None:
    key = await asyncio.to_thread(admin_key, database_url)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with engine_running() as engine:
        config = config_for(engine, database_url)
        async with (
            served(tmp_path / "a", config) as a,
            served(tmp_path / "b", config) as b,
            admin_of(a, key) as ask_a,
            admin_of(b, key) as ask_b,
        ):
            new = json.dumps(config_for(engine, database_url, more=1))
            answer = await ask_a.post("/config", json={"text": new, "name": "new.yaml"})
            assert answer.status_code == 200, answer.text
            version = answer.json()["version"]
            assert answer.json()["status"] == "applied"
            assert await version_of(a.url) == version
            began_s = time.monotonic()
            await serves(b, version, LIMIT_S)
            print(f"the other gateway serves it after {time.monotonic() - began_s:.2f} s")
            shown = (await ask_b.get("/config")).json()
            assert (shown["origin"], shown["who"], shown["name"]) == ("database", "operator-key", "new.yaml")

            back = await ask_b.post("/config/rollback", json={})
            assert back.status_code == 200, back.text
            await serves(a, back.json()["version"], LIMIT_S)
            assert len((await ask_a.get("/config/history")).json()["past"]) == 3
        audit = await asyncio.to_thread(audited, database_url)
        assert audit == [("operator-key", version), ("operator-key", back.json()["version"])]


async def test_a_restarted_gateway_takes_what_was_applied_while_it_was_away(tmp_path: Path, database_url: str) -> None:
    key = await asyncio.to_thread(admin_key, database_url)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with engine_running() as engine:
        config = config_for(engine, database_url)
        async with served(tmp_path / "a", config) as a, admin_of(a, key) as ask:
            new = json.dumps(config_for(engine, database_url, more=1))
            version = (await ask.post("/config", json={"text": new})).json()["version"]
            async with served(tmp_path / "b", config) as b:  # it has never run, and its file is that of the first
                await b.ready()
                await serves(b, version, 20.0)
        async with served(tmp_path / "a", config) as a:
            await a.ready()
            assert await version_of(a.url) == version


async def test_the_admin_api_refuses_what_is_wrong_what_is_outdated_and_who_may_not(tmp_path: Path) -> None:
    database_url = f"sqlite:///{tmp_path}/headrace.db"
    operator = await asyncio.to_thread(admin_key, database_url)
    viewer = await asyncio.to_thread(admin_key, database_url, "viewer")
    async with (
        engine_running() as engine,
        served(tmp_path, config_for(engine, database_url)) as gateway,
        admin_of(gateway, operator) as ask,
        admin_of(gateway, viewer) as look,
    ):
        before = await version_of(gateway.url)
        bad = await ask.post("/config", json={"text": "server: {prot: 1}\n", "name": "bad.yaml"})
        assert (bad.status_code, bad.json()["error"]["code"]) == (400, "config_refused")
        assert "bad.yaml:1:10: server.prot" in bad.json()["error"]["message"]
        new = json.dumps(config_for(engine, database_url, more=1))
        outdated = await ask.post("/config", json={"text": new, "expected": "9-abc"})
        assert (outdated.status_code, outdated.json()["error"]["code"]) == (409, "conflict")
        tried = await ask.post("/config", json={"text": new, "dry_run": True})
        assert tried.json()["status"] == "checked"
        assert len(tried.json()["differences"]) > 1
        unknown = await ask.post("/config/rollback", json={"number": 77})
        assert unknown.status_code == 404
        assert (await look.post("/config", json={"text": new})).status_code == 403
        assert (await look.get("/config/history")).status_code == 200
        assert await version_of(gateway.url) == before
        url = ("--admin", admin_url(gateway))
        (tmp_path / "new.yaml").write_text(new)
        (tmp_path / "bad.yaml").write_text("server: {prot: 1}\n")
        by_key = {"HEADRACE_ADMIN_KEY": operator}
        said = await headrace(gateway, "config", "apply", "bad.yaml", "--yes", *url, env=by_key, status=1)
        assert "bad.yaml:1:10: server.prot" in said
        assert "serves now" in await headrace(gateway, "config", "apply", "new.yaml", "--yes", *url, env=by_key)
        shown = await headrace(gateway, "config", "show", *url, env=by_key)
        assert "new.yaml, applied through the admin API by operator-key" in shown
        assert "more-0" in await headrace(gateway, "config", "history", *url, env=by_key)
        assert "serves now" in await headrace(gateway, "config", "rollback", "1", "--yes", *url, env=by_key)
        refused = await headrace(gateway, "config", "show", *url, status=1)
        assert "HEADRACE_ADMIN_KEY" in refused


async def test_a_change_that_the_office_itself_goes_by_is_answered_and_published(tmp_path: Path) -> None:
    database_url = f"sqlite:///{tmp_path}/headrace.db"
    key = await asyncio.to_thread(admin_key, database_url, "admin")
    config = config_for(None, database_url)
    async with engine_running() as engine:
        config["pools"]["p"]["urls"] = [engine.url]
        async with served(tmp_path, config) as gateway:
            async with admin_of(gateway, key) as ask:
                config["admin"]["requests_per_second"] = 50
                answer = await ask.post("/config", json={"text": json.dumps(config)})
                assert answer.status_code == 200, answer.text
            async with admin_of(gateway, key) as ask:
                await settled_header(ask, answer.json()["version"])
                config["deployments"]["more"] = config["deployments"]["m"]
                again = await ask.post("/config", json={"text": json.dumps(config)})
                assert again.json()["status"] == "applied"
                await settled_header(ask, again.json()["version"])
                config["admin"]["requests_per_second"] = 60
                config["telemetry"] = {"access_log": {"path": str(tmp_path), "format": "json"}}
                refused = await ask.post("/config", json={"text": json.dumps(config)})
                assert refused.status_code == 400
                assert "worker 0 could not start" in refused.json()["error"]["message"]
                assert (await ask.get("/config")).json()["version"] == again.json()["version"]
        assert len(await asyncio.to_thread(audited, database_url)) == 2


async def settled_header(ask: httpx.AsyncClient, version: str) -> None:
    """The admin API says which version serves, too."""
    async with asyncio.timeout(10.0):
        while (await ask.get("/health/live")).headers["x-headrace-config"] != version:
            await asyncio.sleep(0.05)


def audited(database_url: str) -> list[tuple[str, str]]:
    database = open_database(database_url)
    try:
        entries = list(AuditLog(database).export())
    finally:
        database.close()
    return [(one.actor, one.subject) for one in entries if one.action == "config.apply"]
