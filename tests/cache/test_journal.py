"""What every journal promises: one order for all workers, nothing twice, nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from cache.entry import Added, Judged, Learned, Objected, Purged, Quarantined, Record, Selector, Used, Voted
from cache.journal import redis, sqlite_file
from cache.journal.memory import MemoryJournal
from cache.journal.outbox import Outbox
from cache.journal.redis import RedisJournal
from cache.journal.seam import Journal, WallTime, decoded, encoded, tell_dropped
from cache.journal.sqlite import SqliteJournal
from cache.library import Library
from cache.planted import planted_record, record_of, shipped
from gateway.redis_client import hang_up
from tests.cache.entries import (
    COHORT,
    NOW,
    CountingCohort,
    digest,
    entry,
    judged,
    library,
    real_library,
    state_of,
    told,
    vector,
)
from tests.harness import settled
from tests.valkey import valkey_running

Open = Callable[[], Journal]
SHARED = ["sqlite", "redis"]


@asynccontextmanager
async def opened(kind: str, folder: Path, now: WallTime = lambda: NOW) -> AsyncIterator[Open]:
    """Opens another worker's journal on the same store."""
    async with AsyncExitStack() as stack:
        if kind == "redis":
            server = await stack.enter_async_context(valkey_running())

            def open_redis() -> Journal:
                client = server.client()
                close = partial(hang_up, client, 1.0)
                return RedisJournal(client, now, hang_up=close, timeout_s=5.0)

            yield open_redis
        elif kind == "sqlite":
            yield lambda: SqliteJournal(folder / "cache.db", now)
        else:
            yield MemoryJournal


@asynccontextmanager
async def worker(
    open_journal: Open, me: str = "me", shelf: Library | None = None
) -> AsyncIterator[tuple[Journal, Library]]:
    shelf, journal = library(me=me) if shelf is None else shelf, open_journal()
    await journal.start(shelf, 10.0)
    try:
        yield journal, shelf
    finally:
        await journal.aclose()


@pytest.mark.parametrize("kind", ["memory", *SHARED])
async def test_what_a_worker_adds_it_finds_at_once(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as another, worker(another) as (journal, shelf):
        journal.append(Added(entry("a")))
        assert shelf.find(entry("a").key, NOW) is not None
        journal.append(Quarantined((entry("a").id,), NOW, "user"))
        assert shelf.find(entry("a").key, NOW) is None
        journal.append(judged("a"))
        await journal.settled()
        await settled(lambda: not told(shelf).learned, "nothing was learned")
        assert told(shelf).learned == [(entry("a").id, True)]
        status = journal.status()
        assert (status.name, status.state, status.waiting, status.dropped) == (kind, "ok", 0, 0)
        assert len(journal.secret) == 32


@pytest.mark.parametrize("kind", SHARED)
async def test_votes_and_complaints_reach_all_workers_and_one_that_comes_later(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as another:
        async with worker(another) as (one, here), worker(another, "you") as (other, there):
            one.append(Added(entry("a")))
            one.append(Objected(entry("a").id, "acme", NOW))
            one.append(Voted(b"q", b"acme", b"4", NOW, NOW + 60.0))
            other.append(Voted(b"q", b"globex", b"4", NOW, NOW + 60.0))
            for shelf in (here, there):
                await settled(partial(lacks, shelf), "a vote or the complaint is not known")
            await one.settled()
            await other.settled()
        async with worker(another, "late") as (_, late):
            await settled(partial(lacks, late), "a vote or the complaint is not known")


def lacks(shelf: Library) -> bool:
    return shelf.votes.count(b"q", b"4", NOW) < 2 or not shelf.is_unwanted(entry("a").id, "acme")


@pytest.mark.parametrize("kind", SHARED)
async def test_three_workers_come_to_the_same_state(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as another, AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(worker(another, f"w{n}")) for n in range(3)]
        for name in range(40):
            journal, _ = workers[name % 3]
            journal.append(Added(entry(f"e{name}", seed=name)))
            journal.append(judged(f"e{name}", equal=name % 2 == 0))
        for journal, _ in workers:
            await journal.settled()
        await settled(lambda: [s for _, s in workers if len(told(s).learned) < 40], "labels are missing")
        workers[1][0].append(Quarantined((entry("e4").id,), NOW, "user"))
        workers[2][0].append(Used({entry("e6").id: 5}, NOW, "w2"))
        for journal, _ in workers:
            await journal.settled()
        await settled(lambda: [s for _, s in workers if len(s) > 39], "it is not quarantined everywhere")
        for journal, shelf in workers:
            assert len(shelf) == 39
            assert journal.secret == workers[0][0].secret
        first = state_of(workers[0][1])
        assert [told(shelf).learned for _, shelf in workers] == [told(workers[0][1]).learned] * 3
        async with worker(another, "new") as (_, newcomer):
            await settled(lambda: len(told(newcomer).learned) < 40, "a newcomer lacks labels")
            assert told(newcomer).learned == told(workers[0][1]).learned
            assert newcomer._ids.keys() == workers[0][1]._ids.keys()
            held = newcomer.held(entry("e6").id)
            assert held is not None and held.hits == 5
        assert state_of(workers[0][1]) == first


@pytest.mark.parametrize("kind", SHARED)
async def test_everything_is_there_again_after_a_restart_but_what_has_had_its_time(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as another:
        async with worker(another) as (journal, shelf):
            for name in range(100):
                journal.append(Added(entry(f"e{name}")))
            journal.append(Added(entry("old", expires_at=NOW - 1)))
            journal.append(judged("e1"))
            secret = journal.secret
            await journal.settled()
        async with worker(another) as (journal, shelf):
            shelf.sweep(NOW)
            assert len(shelf) == 100
            assert journal.secret == secret or kind == "memory"
            assert told(shelf).learned == [(entry("e1").id, True)]


@pytest.mark.parametrize("kind", SHARED)
async def test_a_purge_reaches_every_worker_and_those_to_come(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as another, worker(another) as (mine, here), worker(another) as (yours, there):
        for name in "abc":
            mine.append(Added(entry(name, tenant=name, tags=(name,))))
        await mine.settled()
        await settled(lambda: len(there) < 3, "entries are missing")
        yours.append(Purged(Selector(tag="b"), NOW, "admin"))
        yours.append(Purged(Selector(tenant="c", before_epoch=9), NOW, "admin"))
        assert len(there) == 1
        await settled(lambda: len(here) > 1, "it was not purged")
        await yours.settled()
        async with worker(another) as (_, newcomer):
            assert list(newcomer._ids) == [entry("a").id]


@pytest.mark.parametrize("kind", SHARED)
async def test_workers_and_newcomers_have_cohorts_that_decide_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sqlite_file, redis):
        monkeypatch.setattr(module, "MANY_JUDGED", 50)
    clock = [NOW]
    async with opened(kind, tmp_path, lambda: clock[0]) as another, AsyncExitStack() as stack:
        mine, here = await stack.enter_async_context(worker(another, "mine", real_library()))
        yours, there = await stack.enter_async_context(worker(another, "yours", real_library()))
        for n in range(120):
            journal = mine if n % 2 else yours
            journal.append(Added(entry(f"e{n}", seed=n % 20)))
            await journal.settled()
            if n >= 20:
                near = here.near(digest("partition"), vector(n % 20), 8, NOW)
                look = here.cohort(COHORT).look(f"what is e{n}?", near)
                journal.append(Judged(COHORT, look, entry(f"e{n}").id, n % 3 > 0, "miss", NOW))
        for journal in (mine, yours):
            await journal.settled()
        workers = [here, there]

        def labels() -> list[int]:
            return [shelf.cohort(COHORT).status().labels for shelf in workers]

        await settled(lambda: labels() != [100] * 2, "labels are missing")
        learn, snapshots = Library.learned, list[Learned | None]()

        def take(shelf: Library, cohort: str, now: float) -> Learned | None:
            snapshots.append(learn(shelf, cohort, now))
            return snapshots[-1]

        monkeypatch.setattr(Library, "learned", take)
        clock[0] = NOW + 100
        await settled(lambda: not snapshots, "no snapshot was taken")
        _, newcomer = await stack.enter_async_context(worker(another, "new", real_library()))
        workers.append(newcomer)
        await settled(lambda: labels() != [100] * 3, "a newcomer lacks labels")
        near = here.near(digest("partition"), vector(3), 8, NOW)
        looks = [shelf.cohort(COHORT).look("what is e3?", near) for shelf in workers]
        assert looks[0].candidate
        assert looks == [looks[0]] * 3


@pytest.mark.parametrize("kind", SHARED)
async def test_what_is_known_of_a_judges_error_is_known_to_all_workers_and_those_to_come(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sqlite_file, redis):
        monkeypatch.setattr(module, "MANY_JUDGED", 10)
    clock, name = [NOW], record_of("m")
    async with opened(kind, tmp_path, lambda: clock[0]) as another:
        async with worker(another, "mine") as (mine, here), worker(another, "yours") as (_, there):
            for pair in shipped().values():
                mine.append(planted_record("m", pair, False, NOW))
            await mine.settled()
            await settled(lambda: there.judge(name).pairs < len(shipped()), "results are missing")
            known = here.judge(name).same
            assert known.wrong == known.of > 10
            clock[0] = NOW + 200  # a snapshot takes their place
            await asyncio.sleep(0.5)
        async with worker(another, "later") as (_, later):
            await settled(lambda: later.judge(name).pairs < len(shipped()), "a newcomer lacks results")
            assert later.judge(name).same == known


@pytest.mark.parametrize("kind", SHARED)
async def test_what_was_withdrawn_with_a_wrong_answer_does_not_come_back_to_newcomers(
    kind: str, tmp_path: Path
) -> None:
    async with opened(kind, tmp_path) as another, worker(another, "mine") as (mine, here):
        for name in "abc":
            mine.append(Added(entry(name, seed=1)))
        cohort = here.cohort(COHORT)
        assert isinstance(cohort, CountingCohort)
        cohort.classmates[entry("a").id] = (entry("b").id,)
        mine.append(Quarantined((entry("a").id,), NOW, "user"))
        await mine.settled()
        async with worker(another, "new") as (_, newcomer):
            assert list(newcomer._ids) == list(here._ids) == [entry("c").id]


@pytest.mark.parametrize("kind", SHARED)
async def test_a_record_that_the_library_cannot_take_does_not_keep_the_next_from_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Picky:
        def __init__(self, library: Library) -> None:
            self.learned = library.learned
            self._apply = library.apply

        def apply(self, record: Record) -> Record:
            if isinstance(record, Added) and record.entry.text == "what is b?":
                raise ZeroDivisionError
            return self._apply(record)

    async with opened(kind, tmp_path) as another, worker(another) as (mine, _), worker(another) as (theirs, there):
        monkeypatch.setattr(theirs, "_listener", Picky(there))
        for name in "abc":
            mine.append(Added(entry(name)))
        await settled(lambda: len(there) < 2, "what came after it is missing")
        assert "could not take a record: Added" in caplog.text


def test_a_record_is_read_as_it_was_written_and_what_is_damaged_is_none() -> None:
    records: list[Record] = [
        Added(entry("a", seed=1, tags=("x",))),
        judged("a"),
        Quarantined(("a", "b"), NOW, "user"),
        Purged(Selector(tag="x"), NOW, "admin"),
        Used({"a": 1}, NOW, "me"),
    ]
    for record in records:
        body = encoded(record)
        assert decoded(body) == record
        assert all(decoded(body[:length]) is None for length in range(0, len(body) - 1, 7))
    assert decoded(b"\x92\xa7unheard\x01") is None


def test_records_wait_within_bounds_and_what_was_dropped_is_still_learned_here() -> None:
    outbox, shelf = Outbox(max_bytes=2000), library()
    dropped = [record for n in range(50) for record in outbox.put(judged(f"e{n}", at=NOW + n))]
    assert outbox.dropped == len(dropped) == 50 - len(outbox)
    assert 0 < len(outbox) < 50 and outbox.first(1)[0].number == len(dropped) + 1
    tell_dropped(shelf, [*dropped, Added(entry("a"))])
    assert len(told(shelf).learned) == len(dropped)
    assert len(shelf) == 0, "it was told when it was made"
