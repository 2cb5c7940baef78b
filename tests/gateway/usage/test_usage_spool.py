"""Records reach the disk from a thread; whatever it does, none is there twice and none is lost in silence (A15)."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.load import parse_config
from gateway.usage import segment_writer
from gateway.usage import spool as spool_module
from gateway.usage.frames import Ending
from gateway.usage.record import Tariff
from gateway.usage.segments import DAMAGED, SUFFIX, create, hold, look, segments, size_of
from gateway.usage.spool import Spool, folder_of, open_spool
from gateway.usage.tail import Tail
from tests.gateway.usage.calls import call, spool_in, spooled


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to that"
        time.sleep(0.002)


def ids(folder: Path) -> list[str]:
    return [record.request_id for record in spooled(folder)]


def names(count: int) -> list[str]:
    return [f"req_{number}" for number in range(count)]


def fill(spool: Spool, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        spool.append(call(number))


def test_a15_what_is_appended_is_in_a_segment_with_its_prices(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    fill(spool, 3)
    spool.append(call(3, engine_model="our-own"))
    spool.append(call(operation=""))
    until(lambda: spool.written == 4)
    (path,) = segments(tmp_path)
    assert not look(path, 0).finished
    spool.close()
    seen = look(path, 0)
    assert seen.finished and not seen.damaged
    assert [type(item) for item in seen.piece.items].count(Tariff) == 1
    assert ids(tmp_path) == names(4)
    assert len({record.id for record in spooled(tmp_path)}) == 4
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_workers_write_segments_of_their_own(tmp_path: Path) -> None:
    one, other = spool_in(tmp_path), spool_in(tmp_path)
    fill(one, 2)
    fill(other, 2)
    one.close()
    other.close()
    assert len(segments(tmp_path)) == 2
    assert len({record.id for record in spooled(tmp_path)}) == 4


def test_segments_are_finished_by_size_and_by_age(tmp_path: Path) -> None:
    spool = spool_in(tmp_path, segment_bytes=1_000)
    for number in range(20):
        fill(spool, 1, number)
        until(lambda number=number: spool.written > number)  # type: ignore[misc]
    until(lambda: len(segments(tmp_path)) >= 3)
    spool.close()
    assert sorted(ids(tmp_path)) == sorted(names(20))
    aged = spool_in(tmp_path / "aged", segment_s=0.0)
    fill(aged, 1)
    until(lambda: any(look(path, 0).finished for path in segments(tmp_path / "aged")))
    aged.close()


def test_past_the_limit_the_oldest_stay_and_new_ones_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_writer, "LOOK_S", 0.01)
    spool = spool_in(tmp_path, max_bytes=500)
    fill(spool, 5)
    until(lambda: spool.written == 5)
    until(lambda: spool.size_bytes > 500)
    fill(spool, 2, 5)
    until(lambda: spool.dropped == 2)
    assert ids(tmp_path) == names(5)
    assert "database.usage_spool_bytes" in caplog.text and "2 so far" in caplog.text
    (path,) = segments(tmp_path)
    os.truncate(path, 0)
    until(lambda: spool.size_bytes == 0)
    fill(spool, 1, 7)
    until(lambda: spool.written == 6)
    spool.close()


class Disk:
    """`os.write` that may fail after some bytes."""

    def __init__(self) -> None:
        self.room: int | None = None
        self.write = os.write

    def __call__(self, fd: int, data: memoryview) -> int:
        if self.room is None:
            return self.write(fd, data)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = self.write(fd, data[: self.room])
        self.room -= count
        return count


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk()
    monkeypatch.setattr(os, "write", found)
    monkeypatch.setattr(segment_writer, "RETRY_S", 0.01)
    return found


@pytest.mark.parametrize("room", [0, 3, 100, 250])
def test_a15_a_full_disk_loses_nothing_once_there_is_room_again(
    tmp_path: Path, disk: Disk, room: int, caplog: pytest.LogCaptureFixture
) -> None:
    spool = spool_in(tmp_path)
    fill(spool, 2)
    until(lambda: spool.written == 2)
    disk.room = room
    fill(spool, 3, 2)
    until(lambda: "No space left" in caplog.text)
    assert ids(tmp_path) == names(2)
    disk.room = None
    until(lambda: spool.written == 5)
    spool.close()
    assert ids(tmp_path) == names(5)
    assert spool.dropped == 0


def test_a_half_written_frame_that_cannot_be_taken_back_ends_its_segment(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, length: int) -> None:
        raise OSError(errno.EIO, "no")

    spool = spool_in(tmp_path)
    fill(spool, 1)
    until(lambda: spool.written == 1)
    monkeypatch.setattr(os, "ftruncate", refuse)
    disk.room = 20
    fill(spool, 1, 1)
    until(lambda: disk.room == 0)
    disk.room = None
    until(lambda: spool.written == 2)
    spool.close()
    cut, whole = segments(tmp_path)
    assert {look(cut, 0).piece.ending, look(whole, 0).piece.ending} == {Ending.CUT, Ending.WHOLE}


def test_a_record_that_cannot_be_written_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tail, "beside", lambda *_: None)  # which would refuse it before
    spool = spool_in(tmp_path)
    spool.append(call(0, error_type="\ud800"))
    fill(spool, 1, first=1)
    until(lambda: spool.written + spool.dropped == 2)
    fill(spool, 1, first=2)
    spool.close()
    assert (ids(tmp_path), spool.dropped) == (["req_1", "req_2"], 1)


def test_what_waits_for_the_disk_is_bounded(tmp_path: Path, disk: Disk) -> None:
    disk.room = 0
    spool = spool_in(tmp_path, max_records=10)
    for number in range(40):
        fill(spool, 1, number)
        time.sleep(0.001)
    until(lambda: spool.dropped >= 20)
    spool.close()
    assert spool.written == 0 and spool.dropped == 40


def test_a_disk_that_stalls_stops_no_request_and_the_end_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stalled, go = threading.Event(), threading.Event()

    def stall(fd: int, data: memoryview) -> int:
        stalled.set()
        go.wait(10.0)
        return len(data)

    monkeypatch.setattr(os, "write", stall)
    monkeypatch.setattr(spool_module, "CLOSE_S", 0.05)
    spool = spool_in(tmp_path, max_records=5)
    fill(spool, 1)
    assert stalled.wait(5.0)
    fill(spool, 8, 1)
    assert spool.dropped == 3
    spool.close()
    assert spool.dropped >= 8 and "are lost" in caplog.text
    go.set()
    spool._thread.join(5.0)


def test_a_sync_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "fdatasync", refuse)
    monkeypatch.setattr(segment_writer, "SYNC_S", 0.0)
    spool = spool_in(tmp_path)
    fill(spool, 1)
    until(lambda: "cannot be synced" in caplog.text)
    spool.close()
    assert ids(tmp_path) == names(1)


def test_a_segment_is_not_to_be_seen_before_it_is_locked(tmp_path: Path) -> None:
    fd = create(tmp_path, "x")
    (path,) = segments(tmp_path)
    assert path.name == f"x{SUFFIX}" and not look(path, 0).finished
    os.close(fd)
    assert look(path, 0).finished
    with pytest.raises(FileExistsError):
        (tmp_path / "x.new").touch()
        create(tmp_path, "x")


def test_damaged_segments_count_as_size_and_others_do_not(tmp_path: Path) -> None:
    (tmp_path / f"a{SUFFIX}").write_bytes(b"12")
    (tmp_path / f"b{DAMAGED}").write_bytes(b"345")
    (tmp_path / "c").write_bytes(b"6789")
    assert size_of(tmp_path) == 5
    assert size_of(tmp_path / "none") == 0


def test_one_at_a_time_takes_in_from_a_folder(tmp_path: Path) -> None:
    first = hold(tmp_path)
    assert first is not None and hold(tmp_path) is None
    os.close(first)
    again = hold(tmp_path)
    assert again is not None
    os.close(again)


def test_records_are_kept_where_there_is_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path))
    assert open_spool(parse_config("{}")) is None
    config = parse_config("database: {}")
    assert config.database is not None and folder_of(config.database) == tmp_path / "usage"
    spool = open_spool(parse_config(f"database: {{usage_spool: {tmp_path}/own}}"))
    assert spool is not None and (tmp_path / "own").stat().st_mode & 0o777 == 0o700
    assert repr(spool) == "<Spool written=0 dropped=0 waiting=0>"
    spool.close()
