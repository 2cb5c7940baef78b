"""A file that is killed over, damaged, full, moved, of another version, or somebody else's."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from cache.entry import Added, Purged, Selector, Used
from cache.journal import sqlite as module
from cache.journal import sqlite_file
from cache.journal.sqlite import SqliteJournal
from cache.journal.sqlite_file import RecordFile, put_aside
from cache.library import Library
from tests.cache.entries import NOW, answer, entry, judged, library, told
from tests.harness import settled

KILLS = 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "cache.db"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.02)
    monkeypatch.setattr(module, "TAIL_S", 0.02)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def worker(
    path: Path, clock: Clock | None = None, max_bytes: int = 10_000_000
) -> AsyncIterator[tuple[SqliteJournal, Library]]:
    shelf, journal = library(100_000_000), SqliteJournal(path, clock or Clock(), max_bytes=max_bytes)
    await journal.start(shelf, 10.0)
    try:
        yield journal, shelf
    finally:
        await journal.aclose()


def look_at(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


NURSERY = """
import asyncio, os, pathlib, random, secrets, signal, sys, time
from cache.entry import Added
from cache.journal import sqlite
from tests.cache.entries import entry, library

sqlite.GATHER_S = 0.0

async def write(path, said):
    journal = sqlite.SqliteJournal(path, lambda: 1_700_000_000.0)
    await journal.start(library(100_000_000))
    os.write(said, b"x")
    while True:
        name = secrets.token_hex(4)
        journal.append(Added(entry(name, said="x" * secrets.randbelow(20_000))))
        await journal.settled()
        os.write(1, name.encode() + b"\\n")

chance = random.Random(int(sys.argv[2]))
for _ in range(int(sys.argv[3])):
    heard, said = os.pipe()
    child = os.fork()
    if not child:
        asyncio.run(write(pathlib.Path(sys.argv[1]), said))
    os.read(heard, 1)
    time.sleep(chance.random() * 0.04)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""
"""Has a worker write, which says what is confirmed, and kills it; and again."""


async def killed_writers(path: Path, seed: int, kills: int) -> set[str]:
    """What they said was confirmed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NURSERY, str(path), str(seed), str(kills), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    return set(said.decode().split())


async def test_however_often_workers_are_killed_no_confirmed_record_is_lost_and_none_is_half_there(path: Path) -> None:
    confirmed = set().union(*await asyncio.gather(*(killed_writers(path, seed, KILLS // 2) for seed in range(2))))
    async with worker(path) as (journal, shelf):
        assert len(confirmed) >= KILLS
        for name in confirmed:
            found = shelf.find(entry(name).key, NOW)
            assert found is not None, f"{name} was confirmed"
            assert found.answer == answer("x" * (len(found.answer.shapes[0]) - len(answer("").shapes[0])))
        assert journal.status().skipped == 0
        assert not list(path.parent.glob("*.damaged"))


async def test_the_file_is_for_its_owner_only(path: Path) -> None:
    async with worker(path) as (journal, _):
        journal.append(Added(entry("a")))
        await journal.settled()
        for each in path.parent.glob("cache.db*"):
            assert stat.S_IMODE(each.stat().st_mode) & 0o077 == 0, each


async def test_what_is_purged_is_gone_from_the_disk(path: Path) -> None:
    async with worker(path) as (journal, _):
        journal.append(Added(entry("a", said="a very telling answer", tenant="acme")))
        journal.append(Added(entry("b", said="another", tenant="globex")))
        await journal.settled()
        journal.append(Purged(Selector(tenant="acme"), NOW + 1, "admin"))
        await journal.settled()
        assert look_at(path, "SELECT tenant FROM records WHERE kind = 'added'") == [("globex",)]
    assert b"a very telling answer" not in path.read_bytes()


@pytest.mark.parametrize("damage", ["not sqlite", "middle", "empty", "cut"])
async def test_a_damaged_file_is_put_aside_and_told_and_nothing_fails(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker(path) as (journal, _):
        for n in range(200):
            journal.append(Added(entry(f"e{n}", said="x" * 500)))
        await journal.settled()
    body = path.read_bytes()
    for each in path.parent.glob("cache.db-*"):
        each.unlink()
    cut = {"not sqlite": b"x" * 9000, "empty": b"", "cut": body[: len(body) // 2 // 4096 * 4096]}
    path.write_bytes(cut.get(damage, body[:4096] + b"\xff" * (len(body) - 4096)))
    with caplog.at_level(logging.INFO):
        async with worker(path) as (journal, shelf):
            await settled(lambda: journal.status().state == "away", "it is away")
            journal.append(Added(entry("new")))
            await journal.settled()
            assert shelf.find(entry("new").key, NOW) is not None
    async with worker(path) as (_, shelf):
        assert shelf.find(entry("new").key, NOW) is not None
    aside = path.with_name("cache.db.damaged")
    assert aside.exists() == (damage != "empty")
    assert ("damaged" in caplog.text) == (damage != "empty")


async def test_one_that_is_damaged_while_it_is_open_is_replaced_for_all_workers(path: Path) -> None:
    async with worker(path) as (mine, here), worker(path) as (yours, there):
        mine.append(Added(entry("a")))
        await mine.settled()
        await settled(lambda: not len(there), "it was not told")
        secret = mine.secret
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with path.open("r+b") as file:
            file.write(b"\0" * file.seek(0, 2))
            file.seek(0)
            file.write(b"garbage" * 4000)
        mine.append(Added(entry("b")))
        await mine.settled()
        yours.append(Added(entry("c")))
        await yours.settled()
        await settled(lambda: [s for s in (here, there) if len(s) < 3], "they do not share a file again")
        assert mine.secret == yours.secret == secret, "what is in memory can still be found"


async def test_a_file_that_was_deleted_or_moved_is_noticed(path: Path) -> None:
    async with worker(path) as (mine, here), worker(path) as (yours, there):
        mine.append(judged("x"))
        await mine.settled()
        await settled(lambda: not (told(here).learned and told(there).learned), "it was not told")
        for each in path.parent.glob("cache.db*"):
            each.unlink(missing_ok=True)
        mine.append(Added(entry("a")))
        await settled(lambda: not path.exists(), "there is no file")
        yours.append(Added(entry("b")))
        yours.append(judged("y"))
        await settled(lambda: len(here) < 2 or len(there) < 2, "they do not share a file again")
        await settled(lambda: len(told(here).learned) < 2 or len(told(there).learned) < 2, "a label is missing")
        assert len(told(here).learned) == len(told(there).learned) == 2, "nothing is learned twice"


async def test_a_file_of_a_newer_version_is_left_alone_and_the_worker_goes_on(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker(path) as (journal, _):
        journal.append(Added(entry("a")))
        await journal.settled()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    before = look_at(path, "SELECT * FROM records")
    async with worker(path) as (journal, shelf):
        status = journal.status()
        assert status.state == "away" and "version 99, this Headrace reads 1" in status.reason
        journal.append(judged("a"))
        journal.append(Added(entry("b")))
        assert len(told(shelf).learned) == len(shelf) == 1
        await journal.settled()
        assert journal.status().waiting == 0
    assert look_at(path, "SELECT * FROM records") == before
    assert "newer version" in caplog.text


async def test_a_database_of_something_else_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE other (a)")
    before = path.read_bytes()
    async with worker(path) as (journal, shelf):
        journal.append(Added(entry("a")))
        assert len(shelf) == 1
        assert "cache.path must name another file" in journal.status().reason
    assert path.read_bytes() == before


async def test_labels_that_waited_are_learned_when_the_file_proves_to_be_newer(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    shelf, journal = library(), SqliteJournal(path, Clock())
    start = asyncio.get_running_loop().create_task(journal.start(shelf))
    await asyncio.sleep(0)
    journal.append(judged("a"))
    await start
    assert len(told(shelf).learned) == 1
    await journal.aclose()


async def test_a_full_file_makes_room_by_its_oldest_entries(path: Path) -> None:
    async with worker(path, max_bytes=1_000_000) as (journal, _):
        for n in range(300):
            journal.append(Added(entry(f"e{n}", said="x" * 10_000)))
            if n % 20 == 0:
                await journal.settled()
        await journal.settled()
        assert journal.status().state == "ok"
        assert path.stat().st_size <= 1_000_000
    async with worker(path) as (_, shelf):
        assert shelf.find(entry("e299").key, NOW) is not None
        assert 20 < len(shelf) < 100


async def test_a_full_disk_costs_nothing_but_durability(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full, write = True, RecordFile.write

    def refuse(self: RecordFile, waiting: object) -> None:
        if full:
            self._db.execute("PRAGMA max_page_count = 1")
        else:
            self._db.execute("PRAGMA max_page_count = 100000")
        write(self, waiting)  # type: ignore[arg-type]

    monkeypatch.setattr(RecordFile, "write", refuse)
    async with worker(path) as (journal, shelf):
        for n in range(50):
            journal.append(Added(entry(f"e{n}", said="x" * 5000)))
        await settled(lambda: journal.status().state == "ok", "it was not noticed")
        assert "full" in journal.status().reason
        assert len(shelf) == 50
        full = False
        await journal.settled()
        await settled(lambda: journal.status().state == "away", "it is still away")
    assert "goes on in memory alone" in caplog.text
    async with worker(path) as (_, shelf):
        assert len(shelf) == 50


async def test_a_folder_that_cannot_be_written_to_costs_nothing_but_durability(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    async with worker(tmp_path / "state" / "cache.db") as (journal, shelf):
        journal.append(Added(entry("a")))
        assert len(shelf) == 1
        assert journal.status().state == "away" and str(tmp_path) in journal.status().reason
        assert journal.status().waiting == 1


async def test_a_locked_file_is_waited_for_by_the_thread_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_S", 0.05)
    clock = Clock()
    async with worker(path, clock) as (journal, shelf):
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as db:
            await asyncio.to_thread(db.execute, "BEGIN IMMEDIATE")
            started = time.monotonic()
            journal.append(Added(entry("a")))
            journal.append(judged("a"))
            assert time.monotonic() - started < 0.05
            await settled(lambda: journal.status().state == "ok", "it was not noticed")
            assert "locked" in journal.status().reason
            clock.now += 7.0
            assert (journal.status().away_s, journal.status().waiting) == (7.0, 2)
            await asyncio.to_thread(db.execute, "ROLLBACK")
            await journal.settled()
            await settled(lambda: journal.status().away_s > 0, "it is still away")
        await settled(lambda: not told(shelf).learned, "it was not learned")
        assert told(shelf).learned == [(entry("a").id, True)]


async def test_a_row_that_is_not_what_was_written_is_skipped(path: Path) -> None:
    async with worker(path) as (journal, _):
        for name in "abc":
            journal.append(Added(entry(name)))
        await journal.settled()
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE records SET body = replace(body, 'yes', 'no!') WHERE id = ?", (entry("b").id,))
        db.execute("INSERT INTO records (kind, origin, at, crc, body) VALUES ('wish', 'x', 0, 0, x'')")
        db.commit()
    async with worker(path) as (journal, shelf):
        assert sorted(shelf._ids) == sorted(entry(name).id for name in "ac")
        assert journal.status().skipped == 2


async def test_a_file_keeps_only_what_is_needed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "MANY_JUDGED", 10)
    clock = Clock()
    async with worker(path, clock) as (journal, shelf):
        for n in range(30):
            journal.append(judged(f"e{n}", at=NOW))
            journal.append(Added(entry(f"e{n}", expires_at=NOW + 10 + n)))
        journal.append(Added(entry("e7", id="f" * 32, created_at=NOW + 1)))
        journal.append(Used({"x": 1}, NOW, "me"))
        await journal.settled()
        await settled(lambda: len(told(shelf).learned) < 30, "labels are missing")
        assert look_at(path, "SELECT count(*) FROM records WHERE kind = 'added'") == [(30,)], (
            "e7's first answer is gone"
        )
        learned = list(told(shelf).learned)
        clock.now = NOW + 100
        kinds = "SELECT kind FROM records ORDER BY number"
        await settled(lambda: look_at(path, kinds) != [("added",), ("used",)], "it is not cleaned up")
        clock.now = NOW + 5000
        journal.append(judged("late", at=clock.now))
        await journal.settled()
    async with worker(path, clock) as (_, shelf):
        await settled(lambda: len(told(shelf).learned) < 31, "labels are missing")
        assert told(shelf).learned == [*learned, (entry("late").id, True)]


async def test_a_worker_that_stood_still_takes_the_snapshot_for_what_it_missed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "MANY_JUDGED", 5)
    fast, slow = Clock(), Clock()
    async with worker(path, fast) as (mine, here), worker(path, slow) as (yours, there):
        mine.append(judged("a"))
        await mine.settled()
        await settled(lambda: not told(there).learned, "it was not told")
        read, gate, waits = yours._read, threading.Event(), threading.Event()

        def stand_still(file: RecordFile) -> None:
            waits.set()
            gate.wait()
            read(file)

        monkeypatch.setattr(yours, "_read", stand_still)
        await settled(lambda: not waits.is_set(), "it does not stand still")
        for n in range(9):
            mine.append(judged(f"b{n}"))
        await mine.settled()
        await settled(lambda: len(told(here).learned) < 10, "labels are missing")
        fast.now = NOW + 200
        await settled(lambda: look_at(path, "SELECT count(*) FROM records") != [(0,)], "it is not cleaned up")
        slow.now = NOW + 201
        gate.set()
        await settled(lambda: len(told(there).learned) < 10, "the snapshot was not taken")
        assert told(there).learned == told(here).learned


def test_only_a_damaged_file_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    RecordFile(path, 10_000_000, "x").close()
    put_aside(path)
    assert path.exists(), "somebody else was faster"
    path.write_bytes(b"x" * 10_000)
    assert put_aside(path).read_bytes() == b"x" * 10_000
    assert not path.exists()


async def test_one_that_cannot_be_put_aside_costs_nothing_but_durability(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "put_aside", refuse)
    path.parent.mkdir()
    path.write_bytes(b"x" * 10_000)
    async with worker(path) as (journal, shelf):
        journal.append(Added(entry("a")))
        assert len(shelf) == 1
        assert "cannot be put aside" in journal.status().reason


async def test_a_journal_that_fails_in_an_unheard_of_way_tries_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clean_up, failures = RecordFile.clean_up, [ZeroDivisionError()]

    def fail(self: RecordFile, now: float) -> None:
        if failures:
            raise failures.pop()
        clean_up(self, now)

    monkeypatch.setattr(RecordFile, "clean_up", fail)
    async with worker(path) as (journal, shelf):
        journal.append(judged("a"))
        await journal.settled()
        await settled(lambda: not told(shelf).learned or journal.status().state == "away", "it did not come back")
        assert told(shelf).learned == [(entry("a").id, True)]
    assert "journal has failed" in caplog.text


async def test_a_journal_that_was_never_started_can_be_closed(path: Path) -> None:
    await SqliteJournal(path, Clock()).aclose()
