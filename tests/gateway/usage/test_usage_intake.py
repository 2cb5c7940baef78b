"""Each record is taken into the database once, whatever ends in between (A15)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from sqlalchemy import Connection, func, select

from gateway.clock import RealClock
from gateway.database import Database, DatabaseGone, open_database
from gateway.office.desk import Desk, Opener
from gateway.usage import intake as intake_module
from gateway.usage import segments as segments_module
from gateway.usage import store as store_module
from gateway.usage.frames import framed
from gateway.usage.intake import Intake, run_intake
from gateway.usage.record import UsageRecord
from gateway.usage.report import By, Query, report
from gateway.usage.segments import DAMAGED, SUFFIX, create, hold, segments
from gateway.usage.store import day_of
from gateway.usage.tables import usage, usage_days, usage_positions, usage_prices
from tests.gateway.usage.calls import call, kept, spool_in
from tests.harness import settled


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url)
    yield opened
    opened.close()


def stored(database: Database) -> list[str]:
    with database.read() as connection:
        return sorted(connection.scalars(select(usage.c.request_id)))


def positions(database: Database) -> int:
    with database.read() as connection:
        return connection.scalar(select(func.count()).select_from(usage_positions)) or 0


def spool_some(folder: Path, count: int, first: int = 0) -> None:
    spool = spool_in(folder)
    for number in range(first, first + count):
        spool.append(call(number))
    spool.close()


def names(count: int) -> list[str]:
    return sorted(f"req_{number}" for number in range(count))


def test_a15_what_was_spooled_is_in_the_database_and_its_segment_gone(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "usage"
    spool_some(folder, 3)
    intake = Intake(database, folder)
    assert intake.take_in() == 3
    assert (stored(database), segments(folder), positions(database)) == (names(3), [], 0)
    assert intake.take_in() == 0
    with database.read() as connection:
        row = connection.execute(select(usage)).first()
        assert row is not None
        assert (row.tenant, row.usd, row.day) == ("acme", "0.00035", day_of(row.at))
        assert (row.outcome, row.estimated, row.ttft_s, row.stream) == ("ok", False, 0.25, False)
        assert connection.execute(select(usage_prices.c.model)).scalars().all() == ["gpt-4o"]


def test_a15_the_tail_of_a_live_segment_is_taken_in_and_where_it_ended_is_kept(
    database: Database, tmp_path: Path
) -> None:
    records = [kept(call(number), f"id-{number}") for number in range(4)]
    fd = create(tmp_path, "live")
    os.write(fd, framed(records[0]) + framed(records[1]) + framed(records[2])[:30])
    intake = Intake(database, tmp_path)
    assert intake.take_in() == 2
    assert (stored(database), positions(database), len(segments(tmp_path))) == (names(2), 1, 1)
    os.write(fd, framed(records[2])[30:] + framed(records[3]))
    assert Intake(database, tmp_path).take_in() == 2
    os.close(fd)
    assert intake.take_in() == 0
    assert (stored(database), positions(database), segments(tmp_path)) == (names(4), 0, [])


def test_a15_records_that_come_again_are_there_once(database: Database, tmp_path: Path) -> None:
    for name in ("one", "two"):
        fd = create(tmp_path, name)
        os.write(fd, b"".join(framed(kept(call(number), f"id-{number}")) for number in range(3)))
        os.close(fd)
    assert Intake(database, tmp_path).take_in() == 6
    assert stored(database) == names(3)


def test_a_long_segment_is_taken_in_piece_by_piece(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [framed(kept(call(number), f"id-{number}")) for number in range(20)]
    for size in (1, 37):
        monkeypatch.setattr(segments_module, "LOOK_BYTES", 3 * len(frames[0]) + size)
        fd = create(tmp_path, f"long-{size}")
        os.write(fd, b"".join(frames) + frames[0][:-1])
        assert Intake(database, tmp_path).take_in() == 20
        assert len(segments(tmp_path)) == 1
        os.close(fd)
        Intake(database, tmp_path).take_in()
        assert segments(tmp_path) == []
    assert stored(database) == names(20)


def test_what_no_database_can_hold_is_made_fit(database: Database, tmp_path: Path) -> None:
    odd = call(1, error_type="a\0b" + "x" * 500, key_name="é" * 200, completion=7)
    spool = spool_in(tmp_path / "usage")
    spool.append(odd)
    spool.append(call(2, usage=None))
    spool.close()
    assert (spool.written, spool.dropped) == (1, 1)
    Intake(database, tmp_path / "usage").take_in()
    assert segments(tmp_path / "usage") == []
    with database.read() as connection:
        (row,) = connection.execute(select(usage))
    assert row.error.startswith("a\ufffdbxx") and len(row.error) == 128


def test_a_record_that_no_column_holds_does_not_stop_the_others(database: Database, tmp_path: Path) -> None:
    for name, record in (("bad", kept(call(8, status=2**63), "bad")), ("good", kept(call(0), "good"))):
        fd = create(tmp_path, name)
        os.write(fd, framed(record))
        os.close(fd)
    Intake(database, tmp_path).take_in()
    assert stored(database) == names(1)
    assert [path.name for path in tmp_path.glob("*.damaged")] == ["bad.damaged"]


def test_a_segment_that_the_database_refuses_is_kept_and_others_go_on(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = store_module.store

    def refuse(connection: Connection, items: Any) -> None:
        if any(item.request_id == "req_0" for item in items if isinstance(item, UsageRecord)):
            connection.execute(usage.insert().values(id=None))
        real(connection, items)

    monkeypatch.setattr(intake_module, "store", refuse)
    fds = [create(tmp_path, f"{number}") for number in range(2)]
    for number, fd in enumerate(fds):
        os.write(fd, framed(kept(call(number), f"id-{number}")))
    Intake(database, tmp_path).take_in()
    assert len(segments(tmp_path)) == 2, "its writer may not be done"
    for fd in fds:
        os.close(fd)
    Intake(database, tmp_path).take_in()
    assert (stored(database), segments(tmp_path)) == (["req_1"], [])
    assert (tmp_path / f"0{DAMAGED}").exists() and "refuses a record" in caplog.text


def test_zeros_in_place_of_what_never_reached_the_disk_are_passed_over(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_module, "LOOK_BYTES", 1000)
    fd = create(tmp_path, "zeros")
    os.write(fd, framed(kept(call(0), "a")) + bytes(5000))
    os.close(fd)
    assert Intake(database, tmp_path).take_in() == 1
    assert segments(tmp_path) == []


def test_two_offices_add_to_the_same_sums_at_once(database: Database, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        for part in range(10):
            fd = create(folder, f"{number}-{part}")
            calls = [call(one, tenant=f"t{(one * (number + 1)) % 7}") for one in range(40)]
            os.write(fd, b"".join(framed(kept(one, f"{number}-{part}-{i}")) for i, one in enumerate(calls)))
            os.close(fd)
    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(lambda folder: Intake(database, folder).take_in(), folders)) == 800
    found = report(database, Query(by=(By.TENANT,)))
    assert (found.total.calls, sum(line.calls for line in found.lines)) == (800, 800)
    assert Decimal(found.total.usd) == 800 * Decimal("0.00035")


def test_a_segment_cut_by_a_crash_gives_what_is_whole_in_it(database: Database, tmp_path: Path) -> None:
    fd = create(tmp_path, "cut")
    os.write(fd, framed(kept(call(0), "a")) + framed(kept(call(1), "b"))[:-1])
    os.close(fd)
    Intake(database, tmp_path).take_in()
    assert (stored(database), segments(tmp_path)) == (names(1), [])


def test_a_damaged_segment_is_kept_and_told(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = framed(kept(call(0), "a")), bytearray(framed(kept(call(1), "b")))
    bad[-1] ^= 1
    fd = create(tmp_path, "bad")
    os.write(fd, good + bad + good)
    intake = Intake(database, tmp_path)
    assert intake.take_in() == 1
    assert len(segments(tmp_path)) == 1, "its writer may not be done"
    os.close(fd)
    intake.take_in()
    assert (stored(database), segments(tmp_path)) == (names(1), [])
    assert (tmp_path / f"bad{DAMAGED}").exists() and f"damaged at byte {len(good)}" in caplog.text


def test_old_records_are_deleted_when_the_configuration_says_so(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "_PRUNED_AT_ONCE", 2)
    monkeypatch.setattr(intake_module, "wall_time_s", lambda: 1_795_348_800.0)
    fd = create(tmp_path, "x")
    ages = [0, 1, 29.9, 31, 32, 33]
    records = [kept(call(i), f"id-{i}", 1_795_348_800.0 - age * 86_400) for i, age in enumerate(ages)]
    os.write(fd, b"".join(map(framed, records)))
    os.close(fd)
    intake = Intake(database, tmp_path)
    intake.take_in()
    assert intake.prune(None) == 0
    assert intake.prune(30) == 3
    assert stored(database) == names(3)


def waiting(folder: Path) -> list[Path]:
    return list(folder.glob(f"*{SUFFIX}"))


async def test_a15_while_the_database_is_away_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opener = Opener(f"sqlite:///{tmp_path}/db")
    database = await asyncio.to_thread(opener.get)
    desk = Desk(opener, "test")
    away = True
    write = Database.write

    @contextmanager
    def gone(self: Database, within_s: float = 1.0) -> Iterator[Connection]:
        with write(self, within_s) as connection:
            yield connection
            if away:
                raise DatabaseGone("it is away")

    monkeypatch.setattr(Database, "write", gone)
    monkeypatch.setattr(intake_module, "EVERY_S", 0.01)
    folder = tmp_path / "usage"
    await asyncio.to_thread(spool_some, folder, 3)
    task = asyncio.create_task(run_intake(desk, folder, RealClock(), 30))
    await settled(lambda: "stays in" not in caplog.text, "it was not told", 5.0)
    assert await asyncio.to_thread(stored, database) == []
    away = False
    await settled(lambda: waiting(folder), "it is not taken in", 10.0)
    await settled(lambda: "is back" not in caplog.text, "it was not told", 5.0)
    assert await asyncio.to_thread(stored, database) == names(3)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    fd = await asyncio.to_thread(hold, folder)
    assert fd is not None, "another may take in now"
    os.close(fd)
    await asyncio.to_thread(desk.close, wait=True)
    await asyncio.to_thread(opener.close)


async def test_of_two_that_share_a_folder_one_takes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "EVERY_S", 0.01)
    opener = Opener(f"sqlite:///{tmp_path}/db")
    desk = Desk(opener, "test")
    folder = tmp_path / "usage"
    folder.mkdir()
    other = await asyncio.to_thread(hold, folder)
    assert other is not None
    task = asyncio.create_task(run_intake(desk, folder, RealClock()))
    await asyncio.to_thread(spool_some, folder, 1)
    await asyncio.sleep(0.05)
    assert waiting(folder)
    os.close(other)
    await settled(lambda: waiting(folder), "it is not taken in", 10.0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await asyncio.to_thread(desk.close, wait=True)
    await asyncio.to_thread(opener.close)


class Crash(Exception):
    pass


class CrashingIntake(Intake):
    """Ends between the commit and the deletion of a segment."""

    def _put_away(self, *args: Any) -> None:
        raise Crash


class Crashes(RuleBasedStateMachine):
    """Writers and the office end anywhere: each record is in the database once, or was never wholly written."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.database = open_database(f"sqlite:///{self.path}/db")
        self.fds: dict[str, int] = {}
        self.names = 0
        self.records = 0
        self.written: set[str] = set()

    @initialize()
    def begin(self) -> None:
        self.open()

    def _record(self) -> UsageRecord:
        self.records += 1
        return kept(call(self.records), f"id-{self.records}")

    @precondition(lambda self: len(self.fds) < 3)
    @rule()
    def open(self) -> None:
        self.names += 1
        self.fds[f"{self.names}"] = create(self.path, f"{self.names}")

    @precondition(lambda self: self.fds)
    @rule(count=st.integers(1, 3), data=st.data())
    def write(self, count: int, data: st.DataObject) -> None:
        fd = self.fds[data.draw(st.sampled_from(sorted(self.fds)))]
        for record in (self._record() for _ in range(count)):
            os.write(fd, framed(record))
            self.written.add(record.id)

    @precondition(lambda self: self.fds)
    @rule(share=st.floats(0, 0.999), data=st.data())
    def writer_dies(self, share: float, data: st.DataObject) -> None:
        fd = self.fds.pop(data.draw(st.sampled_from(sorted(self.fds))))
        frame = framed(self._record())
        os.write(fd, frame[: int(len(frame) * share)])
        os.close(fd)

    @precondition(lambda self: self.written)
    @rule(data=st.data())
    def writes_again_what_it_was_not_sure_of(self, data: st.DataObject) -> None:
        number = int(data.draw(st.sampled_from(sorted(self.written))).removeprefix("id-"))
        self.names += 1
        fd = create(self.path, f"{self.names}")
        os.write(fd, framed(kept(call(number), f"id-{number}")))
        os.close(fd)

    @rule()
    def take_in(self) -> None:
        Intake(self.database, self.path).take_in()

    @rule()
    def office_dies(self) -> None:
        with suppress(Crash):
            CrashingIntake(self.database, self.path).take_in()

    @rule(after=st.integers(0, 3), committed=st.booleans())
    def database_goes(self, after: int, committed: bool) -> None:
        with suppress(DatabaseGone):
            Intake(Leaving(self.database, after, committed), self.path).take_in()

    def teardown(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        Intake(self.database, self.path).take_in()
        with self.database.read() as connection:
            found = list(connection.scalars(select(usage.c.id)))
            summed = connection.scalar(select(func.sum(usage_days.c.calls))) or 0
        self.database.close()
        assert not list(self.path.glob(f"*{SUFFIX}")) and not list(self.path.glob(f"*{DAMAGED}"))
        self.folder.cleanup()
        assert sorted(found) == sorted(self.written)
        assert summed == len(found)


class Leaving(Database):
    """Goes away at the end of a transaction, which may be committed all the same."""

    def __init__(self, real: Database, after: int, committed: bool) -> None:
        self._real, self._after, self._committed = real, after, committed

    @contextmanager
    def read(self, within_s: float = 1.0) -> Iterator[Connection]:
        with self._real.read(within_s) as connection:
            yield connection

    @contextmanager
    def write(self, within_s: float = 1.0) -> Iterator[Connection]:
        self._after -= 1
        with self._real.write(within_s) as connection:
            yield connection
            if self._after < 0 and not self._committed:
                raise DatabaseGone("away")
        if self._after < 0:
            raise DatabaseGone("away")


Crashes.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestCrashes = Crashes.TestCase
