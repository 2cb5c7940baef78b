"""`headrace serve` under load, killed at any moment, and what is left of its cache."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import string
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from cache.answer import text_of
from cache.entry import Added
from cache.journal.seam import decoded
from tests.gateway.caching.scribe import Given, Scribe, ask
from tests.gateway.supervised import Served, client, descendants, gone, served
from tests.harness import PATIENCE_S, Json, chat, config_of
from tests.valkey import Valkey

CLIENTS = 6
LOOK_S = 0.01
"""Between two looks at the store."""
LEAST = 20
"""Entries that are confirmed before anything is killed."""
LONGEST_S = 0.3
"""From then on until it is."""
LATEST = 200
"""Questions that are asked again, and as many of before."""
RECORDS = "{headrace}:cache:records"


class Store:
    """What is confirmed, that is, in the file or in Redis, read without any of the gateway's code but the decoding of a
    record."""

    workers = 2
    """Of the gateway."""

    def __init__(self, options: Json) -> None:
        self.options = options

    async def bodies(self) -> list[bytes]:
        raise NotImplementedError

    async def has(self, count: int) -> None:
        """Wait for so many entries."""
        async with asyncio.timeout(PATIENCE_S):
            while len(await self.confirmed()) < count:
                await asyncio.sleep(LOOK_S)

    async def confirmed(self) -> dict[str, str]:
        """The answers that are kept, by their questions."""
        records = [decoded(body) for body in await self.bodies()]
        assert None not in records, "a record that cannot be read"
        texts = [text_of(record.entry.answer) for record in records if isinstance(record, Added)]
        return {question_of(text): text for text in texts}


class SqliteStore(Store):
    def __init__(self, folder: Path) -> None:
        self.path = folder / "cache.sqlite"
        super().__init__({"cache": {"store": "sqlite", "path": str(self.path)}})

    async def bodies(self) -> list[bytes]:
        return await asyncio.to_thread(self._bodies)

    def _bodies(self) -> list[bytes]:
        if not self.path.exists():
            return []
        with closing(sqlite3.connect(f"file:{self.path}?mode=rw", uri=True, timeout=5.0)) as db:
            try:
                return [body for (body,) in db.execute("SELECT body FROM records WHERE kind = 'added'")]
            except sqlite3.OperationalError as error:
                assert "no such table" in str(error), error
                return []


class RedisStore(Store):
    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        super().__init__({"cache": {"store": "redis"}, "redis": {"url": valkey.url, "peers": False}})

    async def bodies(self) -> list[bytes]:
        async with self._valkey.client() as redis:
            return [fields[b"r"] for _, fields in await redis.xrange(RECORDS)]


@dataclass
class Asked:
    """questions: all that were begun. given: answers that a client had whole, by their questions."""

    questions: list[str] = field(default_factory=list)
    given: dict[str, Given] = field(default_factory=dict)

    def worth_asking(self) -> list[str]:
        """The latest, and as many of the others."""
        earlier, latest = self.questions[:-LATEST], self.questions[-LATEST:]
        return random.sample(earlier, min(LATEST, len(earlier))) + latest


@asynccontextmanager
async def loaded(url: str, chance: random.Random, asked: Asked) -> AsyncIterator[None]:
    """Clients that ask one thing after the other. That they get no answer is nobody's fault here."""

    async def one(name: int) -> None:
        async with client(url) as http:
            while True:
                letters = "".join(chance.choices(string.ascii_letters, k=chance.choice((3, 30, 300, 3000))))
                question = f"{name} {len(asked.questions)} {letters}"
                asked.questions.append(question)
                # AttributeError: of anyio, if a connection is reset just as it opens.
                with contextlib.suppress(httpx.HTTPError, AttributeError):
                    asked.given[question] = await ask(http, chat(question, stream=chance.random() < 0.5))

    tasks = [asyncio.create_task(one(name)) for name in range(CLIENTS)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError), outcome


def question_of(text: str) -> str:
    return text.rpartition(", says ")[0]


def config(scribe: Scribe, store: Store) -> Json:
    found = config_of(scribe.url, server={"workers": store.workers, "drain_s": 2}, cache={"enabled": True})
    found["cache"] |= {"ttl_s": 86400} | store.options["cache"]
    return found | {name: one for name, one in store.options.items() if name != "cache"}


def kill_all(gateway: Served, chance: random.Random) -> list[int]:
    """Its processes, in any order."""
    pids = [gateway.pid, *descendants(gateway.pid)]
    chance.shuffle(pids)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


@asynccontextmanager
async def running(folder: Path, scribe: Scribe, store: Store) -> AsyncIterator[Served]:
    async with served(folder, config(scribe, store)) as gateway:
        await gateway.ready()
        yield gateway


async def crash(folder: Path, scribe: Scribe, store: Store, chance: random.Random, asked: Asked) -> dict[str, str]:
    """Start a gateway, have it write, kill it. Returns what was confirmed."""
    async with running(folder, scribe, store) as gateway, loaded(gateway.url, chance, asked):
        await store.has(LEAST + len(await store.confirmed()))
        await asyncio.sleep(chance.random() * LONGEST_S)
        confirmed = await store.confirmed()
        await gone(kill_all(gateway, chance))
    return confirmed


async def lose_worker(folder: Path, scribe: Scribe, store: Store, chance: random.Random, asked: Asked) -> None:
    """Kill one of two workers under load: the gateway goes on, and both have what was confirmed."""
    async with running(folder, scribe, store) as gateway:
        before = gateway.workers()
        async with loaded(gateway.url, chance, asked):
            await store.has(LEAST)
            await asyncio.sleep(chance.random() * LONGEST_S)
            confirmed = await store.confirmed()
            os.kill(chance.choice(before), signal.SIGKILL)
            await gateway.said("worker .* (was killed|ended|died)")
        fresh = await check(gateway.url, confirmed, asked, scribe)
    assert fresh.items() <= (await store.confirmed()).items(), "lost by a stop that was asked for"


async def recovered(folder: Path, scribe: Scribe, store: Store, confirmed: Mapping[str, str], asked: Asked) -> None:
    """Start it again: what was confirmed is there, whole, and so is all else that is there."""
    async with running(folder, scribe, store) as gateway:
        fresh = await check(gateway.url, confirmed, asked, scribe)
        assert "damaged" not in gateway.text, gateway.text
    assert fresh.items() <= (await store.confirmed()).items(), "lost by a stop that was asked for"


async def check(url: str, confirmed: Mapping[str, str], asked: Asked, scribe: Scribe) -> dict[str, str]:
    """Ask again, either worker. Returns what was not there and is now.

    Raises:
        AssertionError: something confirmed is lost, or what is served is not, to the last word, what the engine said.
    """
    assert confirmed.keys() <= set(asked.questions)
    fresh = {}
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(url)) for _ in range(CLIENTS)]
        for place, question in enumerate(asked.worth_asking()):
            got = await ask(clients[place % CLIENTS], chat(question, stream=place % 4 < 2))
            assert got.text == scribe.said[got.mark], "half an answer"
            assert question_of(got.text) == question
            before = asked.given.get(question)
            if got.source == "miss":
                assert question not in confirmed, f"{question[:40]} was confirmed"
                asked.given[question], fresh[question] = got, got.text
            else:
                assert confirmed.get(question, got.text) == got.text
                assert before is None or before.mark == got.mark, f"{question[:20]}: {got.mark}, not {before.mark}"
    return fresh
