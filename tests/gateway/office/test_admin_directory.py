"""Organisations, teams, service accounts, keys and the audit log over the admin API, on both kinds of database."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.clock import RealClock
from gateway.config import Auth
from gateway.errors import Unauthenticated
from gateway.identity import KeyRing
from tests.gateway.office.rig import Office, office_running
from tests.harness import settled


@pytest.fixture
async def office(tmp_path: Path, database_url: str) -> AsyncIterator[Office]:
    async with office_running(database_url, tmp_path) as running:
        yield running


def refused(office: Office, key: str) -> str | None:
    """What is wrong, if the key is still taken."""
    try:
        KeyRing(Auth(), office.ring).identify({b"authorization": b"Bearer " + key.encode()})
    except Unauthenticated:
        return None
    return "it is taken"


async def test_a_key_is_made_shown_once_replaced_and_revoked(office: Office) -> None:
    body = {"name": "app", "organisation": "acme", "deployments": ["m"], "limits": {"requests_per_minute": 5}}
    made = await office.post("admin", "/keys", body)
    assert made.status_code == 201, made.text
    key, record = made.json()["key"], made.json()["record"]
    assert key.startswith(f"sk-hr-{record['id']}-")
    assert record["limits"] == {"requests_per_minute": 5}
    listed = await office.get("admin", "/keys?name=app")
    assert listed.json() == {"data": [record], "more": None}
    assert key not in listed.text + (await office.get("admin", "/audit")).text
    await office.known()
    caller = KeyRing(Auth(), office.ring).identify({b"authorization": b"Bearer " + key.encode()})
    assert (caller.key_name, caller.tenant, caller.key_id) == ("app", "acme", record["id"])
    assert caller.deployments == frozenset({"m"})
    again = (await office.post("admin", f"/keys/{record['id']}/rotate", {"grace_s": 0})).json()
    assert again["record"]["name"] == "app"
    await settled(lambda: refused(office, key), "the replaced key")
    assert (await office.post("admin", f"/keys/{again['record']['id']}/revoke")).json()["state"] == "revoked"
    await settled(lambda: refused(office, again["key"]), "the revoked key")


async def test_a_disabled_organisation_team_or_service_account_has_no_keys(office: Office) -> None:
    assert (await office.post("admin", "/teams?organisation=acme", {"name": "r/d"})).status_code == 201
    assert (await office.post("admin", "/service-accounts?organisation=acme", {"name": "ci"})).status_code == 201
    keys = {}
    for name, extra in (("of team", {"team": "r/d"}), ("of account", {"service_account": "ci"}), ("plain", {})):
        body = {"name": name.replace(" ", "-"), "organisation": "acme"} | extra
        keys[name] = (await office.post("admin", "/keys", body)).json()["key"]
    await office.known()
    for path, name in (
        ("/teams/r/d?organisation=acme", "of team"),
        ("/service-accounts/ci?organisation=acme", "of account"),
        ("/organisations/acme", "plain"),
    ):
        assert refused(office, keys[name])
        assert (await office.patch("admin", path, {"disabled": True})).json()["disabled"] is True
        await settled(lambda name=name: refused(office, keys[name]), name)  # type: ignore[misc]
        assert (await office.patch("admin", path, {"disabled": False})).status_code == 200
        await settled(lambda name=name: None if refused(office, keys[name]) else "gone", name)  # type: ignore[misc]


async def test_lists_come_in_pages(office: Office) -> None:
    for index in range(5):
        await office.post("admin", "/teams?organisation=acme", {"name": f"t{index}"})
        await office.post("admin", "/organisations", {"name": f"z{index}"})
        await office.post("admin", "/keys", {"name": f"z{index}", "organisation": "acme"})
    for path, parameter in (
        ("/teams?organisation=acme", "after"),
        ("/organisations?", "after"),
        ("/keys?organisation=acme", "after"),
        ("/audit?", "before"),
    ):
        whole = (await office.get("admin", f"{path}&limit=1000")).json()["data"]
        pieces, more = [], ""
        while more is not None:
            page = (await office.get("admin", f"{path}&limit=2" + (f"&{parameter}={more}" if more else ""))).json()
            pieces += page["data"]
            more = page["more"]
        assert pieces == whole, path


async def test_the_audit_log_says_who_did_what_from_where_and_is_whole(office: Office) -> None:
    answer = await office.patch(
        "tenant-admin", f"/keys/{(await _data_key(office))}", {"name": "renamed"}, headers={"x-request-id": "r-1"}
    )
    assert answer.status_code == 200
    entry = (await office.get("tenant-admin", "/audit?action=key.update")).json()["data"][0]
    assert (entry["actor"], entry["address"], entry["request_id"]) == ("tenant-admin", "127.0.0.1", "r-1")
    assert (entry["before"], entry["after"]) == ({"name": "data"}, {"name": "renamed"})
    verdict = (await office.get("viewer", "/audit/verify")).json()
    assert verdict["broken_at"] is None
    noted = await office.get("viewer", f"/audit/verify?seq={verdict['entries']}&hash={verdict['head']}")
    assert noted.json() == verdict
    wrong = await office.get("viewer", f"/audit/verify?seq=1&hash={verdict['head']}")
    assert wrong.json()["broken_at"] == 1
    assert (await office.get("viewer", "/audit/verify?seq=1")).status_code == 400
    lines = (await office.get("admin", "/audit.jsonl")).text.splitlines()
    assert len(lines) == verdict["entries"]
    since = await office.get("admin", "/audit", params={"from": entry["at"]})
    assert [one["seq"] for one in since.json()["data"]] == [entry["seq"]]


async def _data_key(office: Office) -> str:
    found: str = (await office.get("admin", "/keys?name=data")).json()["data"][0]["id"]
    return found


async def test_what_the_directory_refuses_is_told_with_its_reason(office: Office) -> None:
    taken = await office.post("admin", "/organisations", {"name": "acme"})
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "conflict")
    assert taken.json()["error"]["message"].endswith("organisation 'acme' already.")
    missing = await office.post("admin", "/keys", {"name": "k", "organisation": "acmee"})
    assert missing.status_code == 404
    assert "acme" in missing.json()["error"]["message"]
    wrong = await office.post("admin", "/keys", {"name": "k"})
    assert wrong.status_code == 400
    assert "organisation" in wrong.json()["error"]["message"]
    typed = await office.post("admin", "/keys", {"name": "k", "organisation": "acme", "limits": {"parallel": "many"}})
    assert (typed.status_code, typed.json()["error"]["param"]) == (400, "limits.parallel")
    assert (await office.get("admin", "/teams")).json()["error"]["param"] == "organisation"


async def test_while_another_program_holds_the_database_reads_go_on_and_changes_are_told_to_wait(
    tmp_path: Path,
) -> None:
    """A15"""
    async with office_running(f"sqlite:///{tmp_path}/headrace.db", tmp_path) as office:
        holder = await asyncio.to_thread(_hold, tmp_path / "headrace.db")
        changed, read = await asyncio.gather(
            office.post("admin", "/organisations", {"name": "late"}), office.get("admin", "/organisations")
        )
        assert read.status_code == 200
        assert (changed.status_code, changed.json()["error"]["code"]) == (503, "database_away")
        await asyncio.to_thread(holder.close)
        assert (await office.post("admin", "/organisations", {"name": "late"})).status_code == 201


def _hold(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    return connection


async def test_while_the_database_does_not_answer_nobody_waits_to_hear_so(tmp_path: Path) -> None:
    async with office_running(f"sqlite:///{tmp_path}/headrace.db", tmp_path) as office:
        office.feed._clock = NeverClock()
        await settled(lambda: "up" if office.feed.is_up else None, "the database is asked still", 5.0)
        answer = await office.get("admin", "/organisations")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_away")
        assert answer.headers["retry-after"] == "2"


class NeverClock(RealClock):
    """A feed that asks the database no more."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()
