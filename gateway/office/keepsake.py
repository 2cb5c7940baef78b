"""The directory in a file, for starts without the database: what a worker that connects would be told."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from gateway.directory.frames import Frame, Frames, pack
from gateway.process.machine import read_own

MAX_APPENDED = 10_000
"""Changes at the end of the file, at which it is written anew."""


class Keepsake:
    """Not for use from several threads at once; blocks for as long as the disk takes.

    A whole directory is written beside the file and takes its place at once; each change is put to its end. One that a
    crash tore is not read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        self._appended = 0

    def read(self) -> Iterator[Frame]:
        """What was last written.

        Raises:
            OSError: there is none, or others could have written it. ValueError: it makes no sense.
        """
        return Frames().feed(read_own(self.path))

    def write(self, frames: Iterable[Frame]) -> None:
        """Raises OSError."""
        self.close()
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        beside.unlink(missing_ok=True)
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(os.dup(fd), "wb") as file:
                file.writelines(map(pack, frames))
            os.fsync(fd)
            beside.rename(self.path)
        except BaseException:
            os.close(fd)
            beside.unlink(missing_ok=True)
            raise
        self._fd, self._appended = fd, 0

    def append(self, frame: Frame) -> bool:
        """False: it has to be written anew, since there is too much at its end, or somebody else wrote it.

        Raises OSError.
        """
        if self._appended >= MAX_APPENDED or not self._is_ours():
            return False
        os.write(self._fd, pack(frame))
        self._appended += 1
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _is_ours(self) -> bool:
        try:
            return self._fd >= 0 and self.path.stat().st_ino == os.fstat(self._fd).st_ino
        except FileNotFoundError:
            return False
