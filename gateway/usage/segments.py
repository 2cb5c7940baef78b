"""The files between workers and the office: who writes one holds its lock, and whose lock is free is finished."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from gateway.usage.frames import MAX_PAYLOAD, Ending, Piece, parse

SUFFIX = ".usage"
_FRESH = ".new"
DAMAGED = ".damaged"
LOCK = "intake.lock"
LOOK_BYTES = 2 * MAX_PAYLOAD
"""Read at once: some thousand records, so that what is done with them at once stays small."""


def make_folder(folder: Path) -> None:
    """
    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def create(folder: Path, name: str, mode: int = os.O_WRONLY | os.O_APPEND) -> int:
    """A new segment, open for appending and locked for as long as the descriptor is open, however that ends.

    Raises:
        OSError: it cannot be made.
    """
    fresh = folder / f"{name}{_FRESH}"
    fd = os.open(fresh, mode | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Only now may it be seen: one without a lock counts as finished.
        fresh.rename(folder / f"{name}{SUFFIX}")
    except BaseException:
        os.close(fd)
        raise
    return fd


def segments(folder: Path) -> list[Path]:
    """The oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"), key=_changed)


def size_of(folder: Path) -> int:
    """Bytes of all segments, the damaged ones included."""
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith((SUFFIX, DAMAGED)):
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat().st_size
    return total


@dataclass(frozen=True, slots=True)
class Look:
    """What a segment holds after a position.

    finished: this is the end of it, and nothing will be added.
    more:     there is more to be read now.
    """

    piece: Piece
    finished: bool
    more: bool

    @property
    def damaged(self) -> bool:
        return self.finished and self.piece.ending is Ending.DAMAGED


def look(path: Path, position: int) -> Look:
    """Read a segment from a position on.

    Raises:
        OSError: it is gone, or cannot be read.
    """
    with path.open("rb") as file:
        # Asked before reading: what was added before the writer let go is then read as well.
        finished = _is_free(file.fileno())
        file.seek(position)
        data = file.read(LOOK_BYTES)
        piece = parse(data)
        more = len(data) == LOOK_BYTES and piece.end > 0 and piece.ending is not Ending.DAMAGED
        return Look(piece, finished and not more, more)


def is_finished(path: Path) -> bool:
    """Whether nothing will be added to a segment."""
    with path.open("rb") as file:
        return _is_free(file.fileno())


def set_aside(path: Path) -> Path:
    """Keep a damaged segment under a name that is not read again."""
    return path.rename(path.with_suffix(DAMAGED))


def hold(folder: Path) -> int | None:
    """Be the only one who takes in from `folder`, until the descriptor is closed. None: another is.

    Raises:
        OSError: the folder cannot be written.
    """
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    return fd


def _is_free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
