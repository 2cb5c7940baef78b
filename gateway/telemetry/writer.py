"""Lines to a file or to standard output from a thread, so that a reader who stalls never stalls the loop."""

from __future__ import annotations

import logging
import os
import queue
import select
import stat
import threading
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

STDOUT: Final = 1
GATHER_S = 0.1
"""Lines that come within this time are written together."""
CLOSE_S = 2.0
"""How long `close` waits for the last lines to be taken."""


class LineWriter:
    """A bounded buffer of lines, drained by one thread.

    path:      a file, appended to; `-` is standard output.
    max_lines: lines that may wait; more are dropped and counted in `dropped`.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(
        self,
        path: str,
        *,
        max_lines: int = 10_000,
    ) -> None:
        self._path = path
        self._max_lines = max_lines
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._reopen = False
        self._failing = False
        self._lost = 0
        self._refused = 0
        self._fd = self._open()
        self._thread = threading.Thread(target=self._run, name="headrace-access-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines lost: the buffer was full, or writing failed."""
        return self._refused + self._lost

    def write(self, line: bytes) -> None:
        """Queue one line, newline included. Never blocks."""
        if self._lines.qsize() >= self._max_lines:
            self._refused += 1
        else:
            self._lines.put(line)

    def reopen(self) -> None:
        """Before the next line open the path anew: after log rotation. Nothing for standard output."""
        self._reopen = True
        self._lines.put(b"")

    def close(self) -> None:
        """Write what waits. Blocks for at most `CLOSE_S` seconds; lines that nobody took by then count as dropped."""
        self._stop.set()
        self._lines.put(b"")
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            self._refused += self._lines.qsize()
            logger.warning("the access log %s is not being read: its last lines are lost", self._path)

    def _open(self) -> int:
        if self._path == "-":
            return STDOUT
        path = Path(self._path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _run(self) -> None:
        while not self._stop.is_set():
            first = self._lines.get()
            self._stop.wait(GATHER_S)
            self._write_batch([first, *self._drain()])
        self._write_batch(self._drain())
        if self._path != "-":
            os.close(self._fd)

    def _drain(self) -> list[bytes]:
        return [self._lines.get_nowait() for _ in range(self._lines.qsize())]

    def _write_batch(self, lines: list[bytes]) -> None:
        try:
            if self._reopen:
                self._open_anew()
            for piece in self._pieces(lines):
                self._write_all(piece)
            self._failing = False
        except OSError as error:
            self._lost += sum(1 for line in lines if line)
            if not self._failing:
                self._failing = True
                logger.error("cannot write the access log %s: %s", self._path, error)

    def _open_anew(self) -> None:
        self._reopen = False
        if self._path != "-":
            fresh = self._open()
            os.close(self._fd)
            self._fd = fresh

    def _pieces(self, lines: list[bytes]) -> list[bytes]:
        """One write for all; into a pipe several, because workers share it and only short writes are atomic."""
        if not stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            return [b"".join(lines)]
        pieces = [b""]
        for line in lines:
            if pieces[-1] and len(pieces[-1]) + len(line) > select.PIPE_BUF:
                pieces.append(line)
            else:
                pieces[-1] += line
        return pieces

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                # Somebody who shares this descriptor made it non-blocking.
                select.select([], [self._fd], [], 1.0)
