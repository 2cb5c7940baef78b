"""A worker that is killed leaves what it had not yet written in shared memory, and nothing of it is lost (A15)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.database import open_database
from gateway.usage import tail as tail_module
from gateway.usage.frames import framed
from gateway.usage.intake import Intake
from gateway.usage.recompute import recompute
from gateway.usage.report import Query, report
from gateway.usage.segments import create, make_folder, segments
from gateway.usage.tail import Tail, salvage, shared_folder
from tests.gateway.usage.calls import call, kept, pricing, spool_in, spooled
from tests.gateway.usage.test_usage_spool import fill, ids, names, until

KILLED = """
import os, signal, sys
from pathlib import Path
from gateway.usage import spool as spool_module
from tests.gateway.usage.calls import call, spool_in
spool_module.GATHER_S = 60.0
spool = spool_in(Path(sys.argv[1]))
for number in range(5):
    spool.append(call(number))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing is left in the machine's."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(tail_module, "SHARED", folder)
    yield folder
    assert not list(folder.glob("*/*")), "a tail is left"


def test_a15_what_a_killed_worker_had_not_written_is_taken_in_with_its_price(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "SHARED", Path("/dev/shm"))
    folder = tmp_path / "usage"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False, timeout=30.0)
    assert ended.returncode == -signal.SIGKILL and segments(folder) == []
    database = open_database(f"sqlite:///{tmp_path}/db")
    assert Intake(database, folder).take_in() == 5
    assert Intake(database, folder).take_in() == 0
    total = report(database, Query()).total
    assert (total.calls, total.unpriced, total.usd) == (5, 0, "0.00175")
    assert recompute(database, Query(), pricing().version).difference_usd == "0"
    database.close()
    assert not tail_module._named(folder).exists()


def test_what_was_written_already_is_not_there_twice(tmp_path: Path) -> None:
    folder = tmp_path / "usage"
    spool = spool_in(folder)
    fill(spool, 3)
    until(lambda: spool.written == 3)
    assert spool._tail is not None
    (left,) = shared_folder(folder).glob("*")
    copy = left.read_bytes()
    assert salvage(folder) == 0, "its worker lives"
    spool.close()
    shared_folder(folder)
    left.write_bytes(copy)
    assert salvage(folder) == 1 and len(segments(folder)) == 2
    database = open_database(f"sqlite:///{tmp_path}/db")
    assert Intake(database, folder).take_in() == 6
    assert report(database, Query()).total.calls == 3
    database.close()


def test_the_tail_begins_anew_once_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_module, "SIZE_BYTES", 4096)
    folder = tmp_path / "usage"
    spool = spool_in(folder)
    for number in range(60):
        fill(spool, 1, number)
        until(lambda number=number: spool.written > number)  # type: ignore[misc]
    assert spool._tail is not None and not spool._tail._is_full
    spool.close()
    assert sorted(ids(folder)) == sorted(names(60))


def test_what_has_no_room_in_the_tail_is_still_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_module, "SIZE_BYTES", 4096)
    folder, held = tmp_path / "usage", threading.Event()
    write = os.write

    def wait(fd: int, data: memoryview) -> int:
        held.wait(10.0)
        return write(fd, data)

    monkeypatch.setattr(os, "write", wait)
    spool = spool_in(folder)
    fill(spool, 100)
    assert spool._tail is not None and spool._tail._is_full
    held.set()
    until(lambda: spool.written == 100)
    spool.close()
    assert ids(folder) == names(100)


def test_a_tail_that_was_cut_in_the_middle_of_a_record_gives_those_before(tmp_path: Path) -> None:
    folder = tmp_path / "usage"
    make_folder(folder)
    tail = Tail.beside(folder, "x")
    assert tail is not None
    frame = framed(kept(call(0), "a"))
    tail.append(frame)
    tail.append(framed(kept(call(1), "b")))
    tail._memory[len(frame) + 20] ^= 1
    (path,) = shared_folder(folder).glob("*")
    data = path.read_bytes()
    tail.close()
    (shared_folder(folder) / path.name).write_bytes(data)
    assert salvage(folder) == 1
    assert {path.stat().st_mode & 0o777 for path in segments(folder)} == {0o600}
    assert [record.id for record in spooled(folder)] == ["a"]
    (shared_folder(folder) / path.name).write_bytes(bytes(100))
    assert salvage(folder) == 0


def test_without_shared_memory_a_worker_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tail_module, "SHARED", tmp_path / "none")
    spool = spool_in(tmp_path / "usage")
    fill(spool, 2)
    spool.close()
    assert ids(tmp_path / "usage") == names(2) and "no shared memory" in caplog.text
    assert salvage(tmp_path / "usage") == 0


def test_where_there_is_no_room_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, at: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert Tail.beside(tmp_path, "x") is None


def test_somebody_elses_folder_is_not_used(tmp_path: Path, shared: Path) -> None:
    folder = tail_module._named(tmp_path)
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    assert Tail.beside(tmp_path, "x") is None
    with pytest.raises(PermissionError):
        salvage(tmp_path)
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert Tail.beside(tmp_path, "x") is None
    folder.unlink()


def test_a_folder_that_goes_away_just_now_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def gone(folder: Path, name: str, mode: int) -> int:
        calls.append(name)
        if len(calls) == 1:
            folder.rmdir()
        return create(folder, name, mode)

    monkeypatch.setattr(tail_module, "create", gone)
    tail = Tail.beside(tmp_path, "x")
    assert tail is not None
    tail.close()


def test_the_office_takes_in_although_shared_memory_is_somebody_elses(tmp_path: Path) -> None:
    folder = tmp_path / "usage"
    spool = spool_in(folder)
    fill(spool, 1)
    spool.close()
    tail_module._named(folder).mkdir(mode=0o777)
    tail_module._named(folder).chmod(0o777)
    database = open_database(f"sqlite:///{tmp_path}/db")
    assert Intake(database, folder).take_in() == 1
    database.close()
    tail_module._named(folder).rmdir()
