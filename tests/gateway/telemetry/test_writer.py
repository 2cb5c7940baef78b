from __future__ import annotations

import fcntl
import os
import select
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.telemetry import writer as module
from gateway.telemetry.writer import LineWriter


@dataclass
class Pipe:
    """A named pipe, open for reading: the kernel takes 64 KiB, and then it blocks."""

    path: str
    reading: int

    def read(self, size: int) -> bytes:
        """Waits until there is something; nothing at its end."""
        select.select([self.reading], [], [], 5.0)
        return os.read(self.reading, size)

    def read_all(self) -> bytes:
        return b"".join(iter(lambda: self.read(65_536), b""))


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    pipe = Pipe(path, os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    yield pipe
    if pipe.reading >= 0:
        os.close(pipe.reading)


def await_text(path: Path) -> bytes:
    deadline_s = time.monotonic() + 5.0
    while not path.read_bytes() and time.monotonic() < deadline_s:
        threading.Event().wait(0.01)
    return path.read_bytes()


def writer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "headrace-access-log"]


def test_lines_reach_the_file_in_order_and_all_by_the_close(tmp_path: Path) -> None:
    path = tmp_path / "made" / "access.log"
    lines = LineWriter(str(path))
    for number in range(500):
        lines.write(b"%d\n" % number)
    lines.close()
    assert path.read_bytes() == b"".join(b"%d\n" % number for number in range(500))
    assert lines.dropped == 0
    assert not writer_threads()


def test_lines_within_a_tenth_of_a_second_are_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = os.write

    def counted(fd: int, data: memoryview) -> int:
        sizes.append(len(data))
        return real(fd, data)

    monkeypatch.setattr(os, "write", counted)
    lines = LineWriter(str(tmp_path / "access.log"))
    for _ in range(100):
        lines.write(b"x" * 99 + b"\n")
    lines.close()
    assert sum(sizes) == 10_000
    assert len(sizes) <= 2


def test_a_line_is_on_disk_soon_after_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    lines = LineWriter(str(path))
    lines.write(b"one\n")
    assert await_text(path) == b"one\n"
    lines.close()


def test_a_stalled_reader_costs_lines_but_never_a_wait(pipe: Pipe) -> None:
    lines = LineWriter(pipe.path, max_lines=1_000)
    line = b"x" * 511 + b"\n"
    began_s = time.perf_counter()
    for _ in range(3_000):
        lines.write(line)
    assert time.perf_counter() - began_s < 1.0
    assert lines.dropped >= 1_000
    with ThreadPoolExecutor(1) as reader:
        taken = reader.submit(pipe.read_all)
        lines.close()
        assert len(taken.result()) == (3_000 - lines.dropped) * len(line)


def test_closing_gives_up_on_a_reader_who_never_reads(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.3)
    lines = LineWriter(pipe.path)
    for _ in range(200):
        lines.write(b"x" * 1_023 + b"\n")
    threading.Event().wait(0.2)
    for _ in range(50):
        lines.write(b"late\n")
    before_s = time.monotonic()
    lines.close()
    assert time.monotonic() - before_s < 1.0
    assert lines.dropped >= 50
    while writer_threads():
        pipe.read(65_536)


def test_writes_into_a_pipe_are_whole_lines_and_short_enough_to_be_atomic(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several workers share standard output; longer writes could be torn apart by another's."""
    pieces: list[bytes] = []
    real = os.write

    def kept(fd: int, data: memoryview) -> int:
        pieces.append(bytes(data))
        return real(fd, data)

    monkeypatch.setattr(os, "write", kept)
    lines = LineWriter(pipe.path)
    for _ in range(40):
        lines.write(b"x" * 999 + b"\n")
    lines.close()
    assert all(len(piece) <= 4_096 and piece.endswith(b"\n") for piece in pieces)
    assert len(b"".join(pieces)) == 40_000


def test_a_non_blocking_standard_output_is_waited_for(pipe: Pipe) -> None:
    lines = LineWriter(pipe.path)
    fcntl.fcntl(lines._fd, fcntl.F_SETFL, fcntl.fcntl(lines._fd, fcntl.F_GETFL) | os.O_NONBLOCK)
    for _ in range(200):
        lines.write(b"x" * 1_023 + b"\n")
    taken = 0
    while taken < 200 * 1_024:
        taken += len(pipe.read(65_536))
    lines.close()
    assert taken == 200 * 1_024
    assert lines.dropped == 0


def test_after_a_rotation_lines_go_to_the_new_file(tmp_path: Path) -> None:
    path, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
    lines = LineWriter(str(path))
    lines.write(b"before\n")
    await_text(path)
    path.rename(rotated)
    lines.reopen()
    lines.write(b"after\n")
    lines.close()
    assert rotated.read_bytes() == b"before\n"
    assert path.read_bytes() == b"after\n"


def test_a_write_that_fails_is_counted_and_said_once(pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    lines = LineWriter(pipe.path)
    os.close(pipe.reading)
    pipe.reading = -1
    for _ in range(3):
        lines.write(b"nobody reads\n")
        threading.Event().wait(0.15)
    lines.close()
    assert lines.dropped == 3
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        f"cannot write the access log {pipe.path}"
    ]


def test_a_file_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        LineWriter(str(tmp_path))
