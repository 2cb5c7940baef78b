"""How a fetch shows itself: a bar in a terminal, a line now and then everywhere else. On standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from engines.models import Progress

_LINE_EVERY_PERCENT = 10
_LINE_EVERY_S = 10.0


@contextmanager
def fetch_progress(stream: TextIO | None = None) -> Iterator[Progress]:
    """A `Progress` for `engines.models.pull` that suits `stream`, by default standard error."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield LineProgress(stream)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), DownloadColumn())
    with Bars(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(file=stream)) as bars:
        yield BarProgress(bars)


class LineProgress:
    """For logs and pipes: a line at the start, every 10 % or 10 s, and at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._what = ""
        self._total_bytes: int | None = None
        self._done_bytes = 0
        self._said_percent = 0
        self._said_s = 0.0

    def begin(self, what: str, total_bytes: int | None, done_bytes: int) -> None:
        self._what, self._total_bytes, self._done_bytes = what, total_bytes, done_bytes
        self._said_percent = self._percent()
        size = f", {total_bytes / 1e6:.1f} MB" if total_bytes else ""
        rest = f", of which {done_bytes / 1e6:.1f} MB are here" if done_bytes else ""
        self._say(f"fetching {what}{size}{rest}")

    def advance(self, count_bytes: int) -> None:
        self._done_bytes += count_bytes
        percent = self._percent()
        due = percent >= self._said_percent + _LINE_EVERY_PERCENT
        if due or time.monotonic() - self._said_s >= _LINE_EVERY_S:
            self._said_percent = percent
            share = f"{percent} %, " if self._total_bytes else ""
            self._say(f"{self._what}: {share}{self._done_bytes / 1e6:.1f} MB")

    def note(self, text: str) -> None:
        self._say(text)

    def _percent(self) -> int:
        return 100 * self._done_bytes // self._total_bytes if self._total_bytes else 0

    def _say(self, text: str) -> None:
        self._said_s = time.monotonic()
        print(text, file=self._stream, flush=True)


class BarProgress:
    """For terminals."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._task = bars.add_task("connecting", total=None)

    def begin(self, what: str, total_bytes: int | None, done_bytes: int) -> None:
        self._bars.reset(self._task, total=total_bytes, completed=done_bytes, description=what)

    def advance(self, count_bytes: int) -> None:
        self._bars.advance(self._task, count_bytes)

    def note(self, text: str) -> None:
        self._bars.console.print(text, highlight=False, markup=False)
