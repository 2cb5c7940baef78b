"""An office within the test's own process, and who talks to it."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from gateway.clock import RealClock
from gateway.config import Config
from gateway.config.dump import Difference
from gateway.config.live import (
    Answer,
    History,
    Outcome,
    Propose,
    Question,
    Rollback,
    Show,
    ShowHistory,
    Shown,
    ShowText,
    Text,
)
from gateway.database import Database
from gateway.directory.audit import Actor
from gateway.directory.ring import Ring
from gateway.directory.specs import KeySpec, OrganisationSpec
from gateway.directory.store import Directory
from gateway.identity import KeyRing
from gateway.office.api.server import AdminServer
from gateway.office.api.state import OfficeState
from gateway.office.desk import Desk, Opener
from gateway.office.feed import Feed
from gateway.office.keepsake import Keepsake
from gateway.office.source import DirectorySource
from gateway.pool_report import PoolList
from gateway.telemetry import Telemetry
from tests.harness import settled

TESTER = Actor("test")
Json = dict[str, Any]


class Office:
    """keys: of each role, and of `data`, which is for model calls of the organisation acme."""

    def __init__(self, url: str, port: int, desk: Desk, ring: Ring, feed: Feed) -> None:
        self.url = url
        self.port = port
        self.desk = desk
        self.ring = ring
        self.feed = feed
        self.keys: dict[str, str] = {}

    async def ask(self, role: str, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask with the key of a role; the empty role has none."""
        headers = dict(options.pop("headers", {}))
        if role:
            headers.setdefault("authorization", f"Bearer {self.keys[role]}")
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=20.0) as client:
            return await client.request(method, path, headers=headers, **options)

    async def get(self, role: str, path: str, **options: Any) -> httpx.Response:
        return await self.ask(role, "GET", path, **options)

    async def post(self, role: str, path: str, body: object = None, **options: Any) -> httpx.Response:
        return await self.ask(role, "POST", path, **({"json": body} if body is not None else {}), **options)

    async def patch(self, role: str, path: str, body: object, **options: Any) -> httpx.Response:
        return await self.ask(role, "PATCH", path, json=body, **options)

    async def known(self) -> None:
        """Every key is known to the process that is asked."""
        count = await self.desk.run(lambda db: len(Directory(db).keys.list()))
        await settled(lambda: None if len(self.ring) >= count else repr(self.ring), "not all keys are known")


@asynccontextmanager
async def office_running(
    database_url: str, folder: Path, admin: Mapping[str, Any] | None = None
) -> AsyncIterator[Office]:
    """With the organisations acme and other, and a key of each role."""
    config = Config.model_validate(
        {
            "database": {"url": database_url},
            "admin": {"port": 0, "requests_per_second": 1000} | dict(admin or {}),
            "telemetry": {"access_log": {"path": str(folder / "admin.log")}},
        }
    )
    clock, ring = RealClock(), Ring(60.0)
    opener = Opener(database_url)
    desks = [Desk(opener, "directory"), Desk(opener, "api", threads=2)]
    feed = Feed(DirectorySource(desks[0]), Keepsake(folder / "kept"), clock, random.Random(1), ring.take)
    telemetry = await asyncio.to_thread(Telemetry, config.telemetry)
    state = OfficeState(config, desks[1], _no_pools, _some_config, lambda: feed.is_up)
    identity = KeyRing(config.auth, ring, for_admins=True)
    # Reads its own version from disk, once.
    server = await asyncio.to_thread(AdminServer, state, identity, telemetry, clock, None, "1-test")
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    following = asyncio.create_task(feed.run())
    server.start(listener)
    office = Office(f"http://127.0.0.1:{port}", port, desks[1], ring, feed)
    try:
        await _people(office)
        yield office
    finally:
        await server.aclose(1.0)
        following.cancel()
        await asyncio.wait((following,))
        for desk in desks:
            await asyncio.to_thread(desk.close, wait=True)
        await asyncio.to_thread(opener.close)
        await telemetry.aclose()


async def _people(office: Office) -> None:
    office.keys.update(await office.desk.run(_make_people))
    await office.known()


def _make_people(database: Database) -> dict[str, str]:
    directory, found = Directory(database), {}
    for name in ("acme", "other"):
        directory.organisations.create(TESTER, OrganisationSpec(name=name))
    for name, organisation, role in (
        ("admin", None, "admin"),
        ("operator", None, "operator"),
        ("viewer", None, "viewer"),
        ("tenant-admin", "acme", "tenant-admin"),
        ("other-admin", "other", "tenant-admin"),
        ("data", "acme", ""),
    ):
        spec = KeySpec.model_validate({"name": name, "organisation": organisation, "role": role})
        found[name] = directory.keys.create(TESTER, spec).key
    return found


async def _no_pools() -> PoolList:
    return PoolList(workers=[0], pools=[])


async def _some_config(question: Question) -> Answer:
    """As a supervisor whose configuration never changes."""
    match question:
        case Propose(dry_run=True, text="auth: {salt: other}"):
            return Outcome(
                status="checked", version="1-test", differences=[Difference("changed", "auth.salt", "old", "new")]
            )
        case Propose() | Rollback():
            return Outcome(status="checked" if question.dry_run else "unchanged", version="1-test")
        case ShowText():
            return Text(text="{}", name="headrace.yaml")
        case ShowHistory():
            return History(running="1-test", past=[])
        case Show():
            return Shown(version="1-test", at=1.0, origin="start", who="", name="headrace.yaml")
