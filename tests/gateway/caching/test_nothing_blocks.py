"""Nothing of the cache holds up the loop of a worker: no file, no lock, and no long sum either. Files, weights and
vectors are for threads; what is left for the loop comes in small pieces."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import usearch.index  # noqa: F401 - before any loop runs
from blockbuster import BlockingError
from msgspec.structs import replace

from cache.entry import Added, Purged, Selector
from cache.index import as_bytes
from cache.journal import sqlite, sqlite_file
from cache.journal.outbox import Waiting
from cache.journal.seam import encoded
from cache.journal.sqlite_file import RecordFile
from cache.library import Library
from cache.semantics.cohort import Cohort
from cache.semantics.seam import Bound
from cache.signals import read_signals
from gateway.caching.models import MINILM, STATIC
from tests.cache.entries import NOW, digest, entry, vector
from tests.engines.server import engine_server
from tests.gateway.caching.test_semantic_hits import ask, by_topic, questions, ready
from tests.harness import CHAT, Json, Server, chat, config_of, serving, settled
from tests.weights import weights_folder

ENTRIES = 4000
DIMENSIONS = 384
EMBEDDER = "an embedder"
LONGEST_TURN_S = 0.05
"""Of the processor's time, in one turn of the loop: the client and the engine of these tests have theirs in it."""


IMPORTED = """
import asyncio, sys
from gateway.caching.embedders import open_embedder
from gateway.config.cache_options import EmbedderOptions
asyncio.run(open_embedder({options}))
assert "usearch.index" in sys.modules
"""


class Turns:
    """How much of the processor's time the turns of the loop took, as long as it runs in this thread."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._at_s = time.thread_time()
        self._next: asyncio.Handle | None = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        now_s = time.thread_time()
        self.longest_s, self._at_s = max(self.longest_s, now_s - self._at_s), now_s
        self._next = self._loop.call_soon(self._turn)

    def stop(self) -> None:
        if self._next is not None:
            self._next.cancel()


@contextmanager
def turns() -> Iterator[Turns]:
    """What lies in memory for other tests is nothing for the garbage collector, as in a worker."""
    gc.collect()
    gc.freeze()
    found = Turns()
    try:
        yield found
    finally:
        found.stop()
        gc.unfreeze()


@pytest.fixture(scope="module")
def weights() -> Path:
    return weights_folder(STATIC, MINILM)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots and clean-ups, which come twice a minute."""
    monkeypatch.setattr(sqlite, "CARE_S", 0.3)
    monkeypatch.setattr(sqlite_file, "MANY_JUDGED", 20)


def config(url: str, weights: Path, kind: str, file: Path) -> Json:
    embedder = {"kind": kind, "path": str(weights)}
    semantic = {"enabled": True, "embedder": embedder, "max_wrong_hit_rate": 0.2, "confidence": 0.8}
    return config_of(url, cache={"enabled": True, "store": "sqlite", "path": str(file), "semantic": semantic})


def learned(file: Path) -> int:
    """Snapshots in the file."""
    with sqlite3.connect(file) as db:
        (count,) = db.execute("SELECT count(*) FROM learned").fetchone()
    db.close()
    return int(count)


async def everything(server: Server, count: int) -> dict[str, int]:
    """Questions, a complaint, a purge. Returns where answers came from."""
    found: dict[str, int] = {}
    entry_id = ""
    async with server.client() as client:
        for text in questions(count):
            answer = await client.post(CHAT, json=chat(text))
            source = answer.headers["x-headrace-cache"]
            found[source] = found.get(source, 0) + 1
            entry_id = answer.headers.get("x-headrace-cache-id", entry_id)
    await server.post(f"/cache/{entry_id}/feedback", {"wrong": True}, content_type="application/json")
    assert server.gateway.desk is not None
    await server.gateway.desk.overall()
    return found


@pytest.mark.parametrize(("kind", "count"), [("static", 350), ("minilm", 100)])
async def test_questions_labels_snapshots_and_purges_leave_the_loop_alone(
    kind: str, count: int, weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "cache.sqlite"
    async with engine_server(by_topic) as url:
        with turns() as writing:
            async with serving(config(url, weights, kind, file)) as server:
                await ready(server.gateway)
                writing.longest_s = 0.0  # its imports are done once
                found = await everything(server, count)
                await settled(lambda: None if learned(file) else "nothing", "no snapshot is there")
        with turns() as reading:
            async with serving(config(url, weights, kind, file)) as server:
                await ready(server.gateway)
                assert server.gateway.desk is not None
                (cohort,) = server.gateway.desk.report().cohorts
                assert cohort.labels > 20
                await ask(server, questions(1)[0])
                await server.gateway.desk.purge(Selector(deployment="m"), "a test", dry_run=False)
                assert server.gateway.desk.report().entries == 0
    assert set(found) >= {"miss", "hit"}
    assert writing.longest_s < LONGEST_TURN_S
    assert reading.longest_s < LONGEST_TURN_S
    assert "Blocking" not in caplog.text, "somebody swallowed it"


async def test_a_file_that_the_loop_opens_itself_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(BlockingError):
        RecordFile(tmp_path / "cache.sqlite", 1_000_000, "me")


async def test_what_large_indexes_are_made_of_is_imported_with_the_embedder(weights: Path) -> None:
    """Not by the question with which one grows large."""
    options = f"EmbedderOptions(kind='static', path={str(weights)!r})"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", IMPORTED.format(options=options))
    assert await process.wait() == 0


async def test_a_file_with_thousands_of_entries_is_read_indexed_and_purged_in_small_pieces(tmp_path: Path) -> None:
    """More than an index holds before it becomes a graph, so that it becomes one on the way."""
    file = tmp_path / "cache.sqlite"
    entries = await asyncio.to_thread(many, file)
    library = Library(Cohort, Bound(), max_bytes=1 << 30, read_signals=read_signals, embedder=EMBEDDER)
    journal = sqlite.SqliteJournal(file, lambda: NOW)
    with turns() as found:
        await journal.start(library, 20.0)
        while library.work():
            await asyncio.sleep(0)
        library.sweep(NOW)
        assert library.stats().vectors == len(library) == entries
        reading_s, found.longest_s = found.longest_s, 0.0
        await asyncio.sleep(0)
        assert library.near(digest("partition"), vector(7, DIMENSIONS), 8, NOW)
        await asyncio.sleep(0)
        asking_s, found.longest_s = found.longest_s, 0.0
        journal.append(Purged(Selector(), NOW + 1, "a test"))
        while library.work():
            await asyncio.sleep(0)
        assert len(library) == 0
        await journal.settled()
    await journal.aclose()
    assert max(reading_s, asking_s, found.longest_s) < LONGEST_TURN_S


def many(file: Path) -> int:
    """Write them. Returns how many."""
    entries = [entry(f"e{n}") for n in range(ENTRIES)]
    rows = np.random.default_rng(1).standard_normal((ENTRIES, DIMENSIONS)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for number, one in enumerate(entries):
        entries[number] = replace(one, partition=digest("partition"), vector=as_bytes(rows[number]), embedder=EMBEDDER)
    records = RecordFile(file, 1 << 30, "me")
    records.write([Waiting(n, Added(one), encoded(Added(one))) for n, one in enumerate(entries, 1)])
    records.close()
    return len(entries)
