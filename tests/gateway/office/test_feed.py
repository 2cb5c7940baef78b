"""The directory feed: from a database that comes and goes, over a socket and a file, to workers."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.clock import RealClock
from gateway.config import Config
from gateway.config.database_options import Database
from gateway.database import DatabaseGone
from gateway.directory.entries import Changes, KeyEntry, OrganisationEntry, Snapshot
from gateway.directory.feed_client import FeedClient, feed_of
from gateway.directory.frames import Alive, snapshot_file
from gateway.directory.ring import Ring
from gateway.identity import NOBODY
from gateway.office import feed as feed_module
from gateway.office.feed import Feed
from gateway.office.keepsake import Keepsake
from tests.gateway.office.test_ring import SALT, entry, text_of
from tests.harness import settled


class Source:
    """A database that a test changes, and takes away."""

    def __init__(self, *keys: KeyEntry) -> None:
        self.keys = {key.id: key for key in keys}
        self.seq = 1
        self.away = False
        self.asked = 0
        self._log: list[tuple[int, str]] = []

    def put(self, key: KeyEntry) -> None:
        self._change(key.id)
        self.keys[key.id] = key

    def revoke(self, key_id: str) -> None:
        self._change(key_id)
        del self.keys[key_id]

    def restore(self) -> None:
        """An older copy takes its place."""
        self.seq, self._log = 0, []

    def _change(self, key_id: str) -> None:
        self.seq += 1
        self._log.append((self.seq, key_id))

    async def snapshot(self) -> Snapshot:
        self._here()
        return Snapshot(self.seq, SALT, [OrganisationEntry("acme")], [], list(self.keys.values()))

    async def changes_since(self, seq: int) -> Changes | None:
        self._here()
        if seq > self.seq:
            return None
        changed = {key_id for number, key_id in self._log if number > seq}
        found = [self.keys[key_id] for key_id in changed if key_id in self.keys]
        return Changes(self.seq, [], [], found, [key_id for key_id in changed if key_id not in self.keys])

    def _here(self) -> None:
        self.asked += 1
        if self.away:
            raise DatabaseGone("it is away")


class Line:
    """An office's feed and its socket."""

    def __init__(self, folder: Path, source: Source) -> None:
        self.path = str(folder / "feed.sock")
        self.file = folder / "office" / "kept.snapshot"
        self.own = Ring(60.0)
        self.feed = Feed(source, Keepsake(self.file), RealClock(), random.Random(1), self.own.take)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Feed]:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen()
        listener.setblocking(False)
        tasks = [asyncio.create_task(self.feed.run()), asyncio.create_task(self.feed.serve(listener))]
        try:
            yield self.feed
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            listener.close()
            await asyncio.to_thread(os.unlink, self.path)

    @asynccontextmanager
    async def worker(self, patience_s: float = 10.0) -> AsyncIterator[Ring]:
        client = FeedClient(self.path, self.file, Ring(60.0), RealClock(), random.Random(1))
        await client.start(patience_s)
        try:
            yield client.ring
        finally:
            await client.aclose()


async def becomes(wrong: Callable[[], object]) -> None:
    await settled(wrong, "it never came right", 8.0)


def knows(ring: Ring, *key_ids: str) -> str | None:
    """What is wrong, unless it knows exactly these keys."""
    right = len(ring) == len(key_ids) and all(ring.find(text_of(key_id).encode()) is not NOBODY for key_id in key_ids)
    return None if right else f"{ring!r}, not {key_ids}"


async def test_workers_hear_of_every_change_whenever_they_begin_to_listen(tmp_path: Path) -> None:
    source = Source(entry("k1"))
    line = Line(tmp_path, source)
    async with line.open(), line.worker() as early:
        assert knows(early, "k1") is None
        source.put(entry("k2"))
        await becomes(lambda: knows(early, "k1", "k2"))
        source.revoke("k1")
        await becomes(lambda: knows(early, "k2"))
        async with line.worker() as late:
            assert knows(late, "k2") is None
            source.put(entry("k3"))
            for ring in (early, late, line.own):
                await becomes(lambda ring=ring: knows(ring, "k2", "k3"))  # type: ignore[misc]


async def test_while_the_database_is_away_what_is_known_stays_and_ages(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(entry("k1"))
    line = Line(tmp_path, source)
    async with line.open() as feed, line.worker() as ring:
        assert feed.is_up
        source.away = True
        asked = source.asked
        await becomes(lambda: None if source.asked > asked + 2 else "not asked")
        await becomes(lambda: None if ring.age_s > 0.5 else f"{ring.age_s}")
        assert knows(ring, "k1") is None
        assert len([one for one in caplog.records if "is away" in one.message]) == 1
        source.away = False
        source.revoke("k1")
        await becomes(lambda: knows(ring))
        await becomes(lambda: None if any("is back after" in one.message for one in caplog.records) else "not said")


async def test_a_database_that_does_not_answer_counts_as_away() -> None:
    now_s = 1000.0
    feed = Feed(Source(), Keepsake(Path("/nowhere/x")), RealClock(), random.Random(1), lambda _: None, lambda: now_s)
    assert not feed.is_up
    feed.book.take(Alive(now_s))
    assert feed.is_up
    now_s += feed_module.LATE_S
    assert not feed.is_up


async def test_after_a_restart_without_the_database_the_file_says_who_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A15"""
    monkeypatch.setattr(feed_module, "PATIENCE_S", 0.05)
    source = Source(entry("k1"))
    line = Line(tmp_path, source)
    async with line.open(), line.worker() as ring:
        source.put(entry("k2"))
        source.revoke("k1")
        await becomes(lambda: knows(ring, "k2"))
        reached_at = ring.alive_at
    assert line.file.stat().st_mode & 0o777 == 0o600
    source.away = True
    again = Line(tmp_path, source)
    async with again.open() as feed, again.worker() as ring:
        assert knows(ring, "k2") is None
        assert ring.alive_at == pytest.approx(reached_at, abs=2.0)
        assert not feed.is_up or ring.age_s < feed_module.LATE_S
        source.away = False
        source.put(entry("k3"))
        await becomes(lambda: knows(ring, "k2", "k3"))


async def test_without_an_office_a_worker_reads_the_file_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A15"""
    source = Source(entry("k1"))
    line = Line(tmp_path, source)
    async with line.worker(0.05) as ring:
        assert not ring.is_known
    assert "cannot be read either" in caplog.text
    async with line.open():
        await becomes(lambda: None if line.file.exists() else "no file")
    async with line.worker(0.05) as ring:
        assert knows(ring, "k1") is None
        async with line.open():
            source.put(entry("k2"))
            await becomes(lambda: knows(ring, "k1", "k2"))


async def test_with_neither_database_nor_file_nothing_is_known_until_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feed_module, "PATIENCE_S", 0.05)
    source = Source(entry("k1"))
    source.away = True
    line = Line(tmp_path, source)
    async with line.open(), line.worker(0.3) as ring:
        assert not ring.is_known
        await becomes(lambda: None if "no directory can be read" in caplog.text else "silent")
        source.away = False
        await becomes(lambda: knows(ring, "k1"))


async def test_an_older_copy_of_the_database_is_read_from_its_beginning(tmp_path: Path) -> None:
    source = Source(entry("k1"))
    line = Line(tmp_path, source)
    async with line.open(), line.worker() as ring:
        source.put(entry("k2"))
        await becomes(lambda: knows(ring, "k1", "k2"))
        del source.keys["k2"]
        source.restore()
        await becomes(lambda: knows(ring, "k1"))


async def test_a_worker_that_does_not_read_is_cut_off_and_asks_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "MAX_BEHIND", 3)
    source = Source(*(entry(f"k{index}", networks=["10.0.0.0/8"] * 50) for index in range(1000)))
    line = Line(tmp_path, source)
    async with line.open() as feed, line.worker() as healthy:
        reader, writer = await asyncio.open_unix_connection(line.path, limit=1024)
        await reader.read(10)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await becomes(lambda: None if len(feed._lines) == 2 else f"{len(feed._lines)} lines")
        for index in range(6):
            source.put(entry("n", name=f"n{index}", networks=["10.0.0.0/8"] * 2000))
            await becomes(
                lambda name=f"n{index}": None if healthy.find(text_of("n").encode()).key_name == name else "not yet"  # type: ignore[misc]
            )
        await becomes(lambda: None if len(feed._lines) == 1 else f"{len(feed._lines)} lines")
        writer.transport.abort()


async def test_garbage_from_the_office_is_said_and_asked_for_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = Line(tmp_path, Source(entry("k1")))

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x00\x00\x02hi")
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(babble, line.path)
    async with line.worker(0.05) as ring:
        await becomes(lambda: None if "makes no sense" in caplog.text else "silent")
        server.close()
        await server.wait_closed()
        await asyncio.to_thread(Path(line.path).unlink, missing_ok=True)
        async with line.open():
            await becomes(lambda: knows(ring, "k1"))


def test_changes_are_put_to_the_end_of_the_file_and_a_torn_one_is_not_read(tmp_path: Path) -> None:
    line = Line(tmp_path, Source())
    keepsake, book = Keepsake(line.file), line.feed.book
    book.replace(Snapshot(1, SALT, [], [], [entry("k1")]), 5.0)
    assert not keepsake.append(Alive(6.0)), "there is nothing to put it to"
    keepsake.write(book.frames())
    assert keepsake.append(Alive(7.0))
    assert list(keepsake.read()) == [*book.frames(), Alive(7.0)]
    line.file.write_bytes(line.file.read_bytes()[:-1])
    assert list(Keepsake(line.file).read()) == list(book.frames())
    Keepsake(line.file).write(book.frames())
    assert not keepsake.append(Alive(8.0)), "another gateway wrote it"
    line.file.unlink()
    assert not keepsake.append(Alive(8.0))
    keepsake.close()
    assert [one.name for one in line.file.parent.iterdir()] == []


def test_a_file_that_cannot_be_written_leaves_nothing_beside_it(tmp_path: Path) -> None:
    keepsake = Keepsake(tmp_path / "kept")
    with pytest.raises(TypeError):
        keepsake.write([object()])  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


async def test_a_disk_that_is_full_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "office").write_text("in the way")
    line = Line(tmp_path, Source(entry("k1")))
    async with line.open(), line.worker() as ring:
        assert knows(ring, "k1") is None
        await becomes(lambda: None if "cannot be kept" in caplog.text else "silent")


def test_each_database_has_a_file_of_its_own_whatever_its_password(tmp_path: Path) -> None:
    def file(url: str) -> Path:
        return snapshot_file(tmp_path, Database.model_validate({"url": url}))

    one = file("postgresql://u:old@db/headrace")
    assert one == file("postgresql://u:new@db/headrace")
    urls = (
        "postgresql://u:old@db:1/headrace",
        "postgresql://v:old@db/headrace",
        "postgresql://u:old@db/other",
        "postgresql://u@/headrace?host=/run/a",
        "postgresql://u@/headrace?host=/run/b",
        "sqlite:///headrace.db",
        "sqlite:////headrace.db",
    )
    assert len({one, *map(file, urls)}) == len(urls) + 1


async def test_without_a_database_there_is_nothing_to_follow() -> None:
    assert feed_of(Config(), "", RealClock(), random.Random(1)) is None
    client = await asyncio.to_thread(feed_of, Config(database=Database()), "", RealClock(), random.Random(1))
    assert client is not None
    await client.start()
    assert not client.ring.is_known
    assert client.ring.age() == []
    assert client.ring.count() == [((), 0.0)]
    await client.aclose()


def test_a_directory_that_others_could_have_written_is_not_taken(tmp_path: Path) -> None:
    kept = Keepsake(tmp_path / "office" / "kept")
    kept.write([Alive(1.0)])
    assert list(kept.read()) == [Alive(1.0)]
    kept.path.chmod(0o666)
    with pytest.raises(PermissionError):
        kept.read()
