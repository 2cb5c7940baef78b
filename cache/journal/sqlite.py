"""A journal in a file, for the workers of one gateway."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from cache.entry import Learned, Record
from cache.journal.outbox import CLOSE_S, StoredJournal
from cache.journal.seam import SLICE, Listener, WallTime, decoded, tell_all, tell_dropped
from cache.journal.sqlite_file import Damaged, NotOurs, RecordFile, Row, is_full, put_aside

logger = logging.getLogger(__name__)

T = TypeVar("T")

TAIL_S = 0.2
"""At most so long after another worker wrote a record it is read."""
GATHER_S = 0.05
"""A record waits so long for others to go into the same commit, which costs as much as fifty records."""
BATCH = 256
"""Records in one commit."""
AGAIN_S = 1.0
"""After a failure."""
CARE_S = 30.0
"""Between two clean-ups of the file."""
AWAY_S = 30.0
"""A worker that stood still for longer may have missed judgements that a snapshot took the place of."""
MAX_BYTES = 1024 * 1024 * 1024


class _Ended(Exception):
    """The loop does not listen any more."""


class _Moved(Exception):
    """The file is another one now."""


class SqliteJournal(StoredJournal):
    """Implements `Journal`. A thread of its own reads and writes. max_bytes: of the file."""

    def __init__(self, path: Path, now: WallTime, *, max_bytes: int = MAX_BYTES) -> None:
        self._wake = threading.Event()
        super().__init__("sqlite", now, self._hasten)
        self._path = path
        self._max_bytes = max_bytes
        self._origin = secrets.token_hex(8)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="cache-journal", daemon=True)
        self._closing = threading.Event()
        self._ended = asyncio.Event()
        self._name = b""
        self._last = 0
        self._upto: dict[str, int] = {}
        self._read_at = 0.0
        self._cared_at = 0.0

    async def start(self, listener: Listener, within_s: float = 2.0) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        await self._catch_up(within_s)

    async def aclose(self) -> None:
        if self._loop is None:
            return
        await self._settle()
        self._closing.set()
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._ended.wait()

    def _hasten(self) -> None:
        if not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._with_file()
            except _Ended:
                break
            except _Moved:
                logger.info("the response cache's file %s was replaced; it is read anew", self._path)
            except Damaged as error:
                aside = self._put_aside()
                logger.error("the response cache's file %s is damaged (%s); put aside as %s", self._path, error, aside)
                self._closing.wait(AGAIN_S)
            except NotOurs as error:
                self._away(f"{self._path}: {error}", alone=True)
            except (sqlite3.Error, OSError) as error:
                self._away(f"{self._path}: {error}")
            except Exception as error:
                logger.exception("the response cache's journal has failed")
                self._away(f"{self._path}: {type(error).__name__}")
        with contextlib.suppress(_Ended):
            self._tell(self._ended.set)

    def _with_file(self) -> None:
        """Until something is wrong with it, or the end."""
        file = RecordFile(self._path, self._max_bytes, self._origin)
        try:
            self._get_to_know(file)
            while not self._closing.is_set():
                if file.replaced():
                    raise _Moved
                self._write(file)
                self._read(file)
                self._back()
                self._care(file)
                if self._wake.wait(TAIL_S):
                    self._closing.wait(GATHER_S)
                self._wake.clear()
            self._write(file)
        finally:
            file.close()

    def _get_to_know(self, file: RecordFile) -> None:
        """A file that is not the one of before is read from its beginning; what is in memory stays."""
        name, self._secret = file.identity(self._secret)
        if name != self._name or file.last_number() < self._last:
            self._name, self._last = name, 0
            self._upto.clear()
        self._read_at = 0.0
        self._alone = False

    def _write(self, file: RecordFile) -> None:
        count = BATCH
        while waiting := self._outbox.first(count):
            try:
                file.write(waiting)
            except sqlite3.Error as error:
                if not is_full(error) or not file.make_room(sum(len(each.body) for each in waiting)):
                    raise
                count = max(1, len(waiting) // 2)
            else:
                self._ask(partial(self._outbox.confirm, waiting[-1].number))

    def _read(self, file: RecordFile) -> None:
        now = self._now()
        stale, self._read_at = now - self._read_at > AWAY_S, now
        with file.reading():
            last = file.last_number()
            snapshots = self._snapshots(file) if stale else deque()
            records: list[Record] = []
            read = self._last
            for row in file.rows(self._last, now):
                while snapshots and snapshots[0][1] < row.number:
                    records.append(snapshots.popleft()[0])
                read = row.number
                record = self._record_of(row)
                if record is not None:
                    records.append(record)
                if len(records) >= SLICE:
                    self._apply(records)
                    self._last, records = read, []
            self._apply([*records, *(learned for learned, _ in snapshots)])
            self._last = max(read, last)

    def _snapshots(self, file: RecordFile) -> deque[tuple[Learned, int]]:
        """Those that know more than this worker, each to be told after the last record that it knows of: a cohort takes
        it in only for entries that it has."""
        found = sorted(file.learned(), key=itemgetter(1))
        newer = deque((learned, upto) for learned, upto in found if upto > self._last)
        self._upto.update((learned.cohort, upto) for learned, upto in newer)
        return newer

    def _record_of(self, row: Row) -> Record | None:
        if row.kind == "judged" and row.number <= self._upto.get(row.cohort or "", 0):
            return None
        record = decoded(row.body) if row.whole else None
        if record is None:
            self._skipped += 1
        return record

    def _care(self, file: RecordFile) -> None:
        now = self._now()
        if now - self._cared_at < CARE_S:
            return
        self._cared_at = now
        listener = self._listener
        assert listener is not None
        learned = [self._ask(partial(listener.learned, cohort, now)) for cohort in file.much_judged()]
        file.keep_learned([each for each in learned if each is not None], self._last)
        file.clean_up(now)

    def _put_aside(self) -> str:
        try:
            return str(put_aside(self._path))
        except OSError as error:
            self._away(f"{self._path} is damaged and cannot be put aside: {error}")
            return "nothing"

    def _away(self, reason: str, *, alone: bool = False) -> None:
        """Try again in a moment; until then this worker goes on with what it has in memory."""
        if reason != self._reason:
            logger.warning("the response cache goes on in memory alone: %s", reason)
        self._is_away(reason)
        with contextlib.suppress(_Ended):
            if alone and not self._alone:
                self._ask(self._go_alone)
            self._tell(self._caught_up.set)
        self._closing.wait(AGAIN_S)

    def _back(self) -> None:
        if self._reason:
            logger.info("the response cache has its file %s again", self._path)
            self._reason = ""
        if not self._caught_up.is_set():
            self._tell(self._caught_up.set)

    def _go_alone(self) -> None:
        """Runs in the loop."""
        assert self._listener is not None
        self._alone = True
        waiting = self._outbox.first(len(self._outbox))
        tell_dropped(self._listener, [each.record for each in waiting])
        self._outbox.confirm(self._outbox.last)

    def _apply(self, records: Sequence[Record]) -> None:
        listener = self._listener
        assert listener is not None
        if records:
            self._ask(lambda: tell_all(listener, records))

    def _tell(self, what: Callable[[], object]) -> None:
        """Have the loop do it.

        Raises:
            _Ended: it has ended.
        """
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            raise _Ended from None

    def _ask(self, what: Callable[[], T]) -> T:
        """The same, and wait for what comes of it."""
        answer: list[T] = []
        failed: list[Exception] = []
        done = threading.Event()

        def do() -> None:
            try:
                answer.append(what())
            except Exception as error:  # it belongs to the thread
                failed.append(error)
            finally:
                done.set()

        self._tell(do)
        while not done.wait(1.0):
            if self._loop is None or self._loop.is_closed():
                raise _Ended
        if failed:
            raise failed[0]
        return answer[0]
