"""Where a worker leaves its records, so that neither a request nor a record depends on the database (A15)."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import threading
import time
from pathlib import Path
from typing import Final

from gateway.clock import wall_time_s
from gateway.config import Config
from gateway.config.database_options import Database
from gateway.process.machine import state_folder
from gateway.record import Record
from gateway.telemetry import Telemetry, series
from gateway.usage.frames import framed
from gateway.usage.record import Pricing, Tariff, UsageRecord, counts, pricing_of, usage_record
from gateway.usage.segments import create, make_folder, size_of
from gateway.usage.tail import Tail

logger = logging.getLogger(__name__)

GATHER_S: Final = 0.02
"""Records that come within this time are written together. Until then they are in memory that outlives the process."""
SYNC_S: Final = 1.0
"""Written records are on the disk within about this time; until then they outlive the process, but not the power."""
LOOK_S: Final = 1.0
"""How often the size of all segments is looked at, those of other workers included."""
RETRY_S: Final = 1.0
SEGMENT_BYTES: Final = 4 * 1024 * 1024
SEGMENT_S: Final = 60.0
"""A segment that holds anything is finished at this age, so that it can be deleted once it is in the database."""
CLOSE_S: Final = 5.0
COMPLAIN_S: Final = 60.0

_Frame = tuple[bytes, str]
"""A record as it is written, and the model by whose price it was reckoned; empty: by none."""


class Spool:
    """A bounded buffer of records, drained into segment files by one thread. Used from the loop.

    folder:      of the segments of all workers; made if it is not there.
    max_bytes:   of all segments together. Past it the oldest stay, and new records are dropped and counted.
    max_records: that may wait for the disk; more are dropped and counted.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        pricing: Pricing,
        *,
        max_bytes: int,
        max_records: int = 100_000,
        segment_bytes: int = SEGMENT_BYTES,
        segment_s: float = SEGMENT_S,
    ) -> None:
        make_folder(folder)
        self._pricing = pricing
        self._nonce = secrets.token_hex(6)
        self._records = 0
        self._max_records = max_records
        self._waiting: queue.SimpleQueue[UsageRecord | None] = queue.SimpleQueue()
        self._refused = 0
        self._tail = Tail.beside(folder, self._nonce)
        self._in_tail: set[str] = set()
        """Models whose prices the tail holds."""
        self._queued = 0
        self._writer = _Writer(folder, self._nonce, pricing, max_bytes, max_records, segment_bytes, segment_s)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headrace-usage", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Spool written={self.written} dropped={self.dropped} waiting={self._waiting.qsize()}>"

    @property
    def written(self) -> int:
        """Records that are in a segment."""
        return self._writer.written

    @property
    def size_bytes(self) -> int:
        """Of all segments, those of other workers included, as last looked at."""
        return self._writer.size_bytes

    @property
    def dropped(self) -> int:
        """Records lost: the segments were full, or the disk was too slow or failed."""
        return self._writer.dropped + self._refused

    def append(self, record: Record) -> None:
        """Keep a record of a call that is over; what is no model call, or reached no admission, is passed over.

        Never blocks, and never raises.
        """
        if not counts(record):
            return
        if self._waiting.qsize() >= self._max_records:
            self._refused += 1
            return
        self._records += 1
        try:
            made = usage_record(record, f"{self._nonce}-{self._records:x}", wall_time_s(), self._pricing)
            if self._tail is not None:
                self._add_to_tail(self._tail, made)
        except Exception:
            # Whatever is wrong with this one, its client has its answer.
            logger.exception("the usage of request %s cannot be recorded", record.request_id)
            self._refused += 1
            return
        self._queued += 1
        self._waiting.put(made)

    def close(self) -> None:
        """Write what waits. Blocks for at most `CLOSE_S` seconds; what a stalled disk did not take is lost."""
        self._stop.set()
        self._waiting.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            lost = self._waiting.qsize()
            self._refused += lost
            logger.error("usage: the disk does not take the last %d records: they are lost", lost)

    def _add_to_tail(self, tail: Tail, made: UsageRecord) -> None:
        """Not reckoned yet, which takes longer than all the rest."""
        if self._queued == self._writer.written + self._writer.dropped:
            tail.clear()
            self._in_tail.clear()
        model = made.engine_model
        if made.price_version and model not in self._in_tail:
            self._in_tail.add(model)
            tail.append(tariff(self._pricing, model))
        tail.append(framed(made))

    def _run(self) -> None:
        writer = self._writer
        while not self._stop.is_set():
            with contextlib.suppress(queue.Empty):
                first = self._waiting.get(timeout=writer.idle_s())
                self._stop.wait(GATHER_S)
                writer.take([first, *self._drain()])
            writer.look_after()
        writer.take(self._drain())
        writer.close()
        if self._tail is not None:
            self._tail.close()

    def _drain(self) -> list[UsageRecord | None]:
        return [self._waiting.get_nowait() for _ in range(self._waiting.qsize())]


def tariff(pricing: Pricing, model: str) -> bytes:
    """The price of a model, as it stands in a file; nothing if it has none."""
    price = pricing.price(model)
    return b"" if price is None else framed(Tariff(pricing.version, model, price))


def open_spool(config: Config) -> Spool | None:
    """That of a worker; None: there is no database to keep anything in.

    Raises:
        OSError: its folder cannot be written.
    """
    if config.database is None:
        return None
    return Spool(folder_of(config.database), pricing_of(config), max_bytes=config.database.usage_spool_bytes)


def folder_of(options: Database) -> Path:
    """Where the records of this machine wait."""
    if options.usage_spool is not None:
        return Path(options.usage_spool).expanduser().absolute()
    return state_folder() / "usage"


def watch_spool(telemetry: Telemetry, spool: Spool) -> None:
    """Show in a worker's metrics what becomes of its records."""
    telemetry.watch(
        series.USAGE_RECORDS.name,
        lambda: [(("spooled",), float(spool.written)), (("dropped",), float(spool.dropped))],
    )
    telemetry.watch(series.USAGE_SPOOL.name, lambda: [((), float(spool.size_bytes))])


class _Writer:
    """The thread's side: one open segment at most. What the disk refuses is tried again while there is room for it."""

    def __init__(
        self,
        folder: Path,
        nonce: str,
        pricing: Pricing,
        max_bytes: int,
        max_records: int,
        segment_bytes: int,
        segment_s: float,
    ) -> None:
        self.written = 0
        self.dropped = 0
        self.size_bytes = size_of(folder)
        self._folder = folder
        self._pricing = pricing
        self._max_bytes = max_bytes
        self._max_records = max_records
        self._segment_bytes = segment_bytes
        self._segment_s = segment_s
        self._nonce = nonce
        self._names = 0
        self._fd: int | None = None
        self._length = 0
        self._opened_s = 0.0
        self._tariffs: set[str] = set()
        """Models whose prices this segment holds."""
        self._dirty = False
        self._synced_s = 0.0
        self._looked_s = time.monotonic()
        self._stuck: list[_Frame] = []
        """Those that the disk has refused."""
        self._complained_s = -COMPLAIN_S

    def idle_s(self) -> float:
        """How long it may sleep when nothing comes."""
        if self._stuck:
            return RETRY_S
        return SYNC_S if self._dirty or self._fd is not None else LOOK_S

    def take(self, fresh: list[UsageRecord | None]) -> None:
        records = [*self._stuck, *(self._reckoned(one) for one in fresh if one is not None)]
        self._stuck = []
        if not records:
            return
        if self.size_bytes >= self._max_bytes:
            self._drop(len(records), f"the segments in {self._folder} have reached database.usage_spool_bytes")
            return
        try:
            self._write(records)
        except OSError as error:
            self._refused(records, error)
            return
        self.written += len(records)

    def look_after(self) -> None:
        """Sync, finish and measure what is due."""
        now_s = time.monotonic()
        try:
            if self._stuck:
                self.take([])
            if self._fd is not None and self._is_due(now_s):
                self._finish()
            elif self._dirty and now_s - self._synced_s >= SYNC_S:
                self._sync(now_s)
        except OSError as error:
            self._complain(f"cannot be synced: {error}")
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            self.size_bytes = size_of(self._folder)

    def close(self) -> None:
        if self._stuck:
            self._drop(len(self._stuck), "the disk still refuses them at the end")
        with contextlib.suppress(OSError):
            self._finish()

    def _is_due(self, now_s: float) -> bool:
        return self._length >= self._segment_bytes or now_s - self._opened_s >= self._segment_s

    def _reckoned(self, made: UsageRecord) -> _Frame:
        self._pricing.charge(made)
        return framed(made), made.engine_model if made.usd and made.price_version else ""

    def _write(self, records: list[_Frame]) -> None:
        """All of them or none."""
        fd = self._fd if self._fd is not None else self._open()
        fresh = {model for _, model in records if model} - self._tariffs
        data = b"".join([*(tariff(self._pricing, one) for one in fresh), *(frame for frame, _ in records)])
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(fd, view) :]
        except OSError:
            if len(view) < len(data):
                self._undo(fd)
            raise
        self._tariffs |= fresh
        self._length += len(data)
        self.size_bytes += len(data)
        self._dirty = True

    def _undo(self, fd: int) -> None:
        """A frame that is half there must not stand before others."""
        try:
            os.ftruncate(fd, self._length)
        except OSError:
            self._close_segment()

    def _open(self) -> int:
        self._names += 1
        self._fd = create(self._folder, f"{self._nonce}-{self._names:06d}")
        self._length, self._opened_s, self._tariffs = 0, time.monotonic(), set()
        return self._fd

    def _finish(self) -> None:
        if self._fd is None:
            return
        try:
            if self._dirty:
                self._sync(time.monotonic())
        finally:
            self._close_segment()

    def _sync(self, now_s: float) -> None:
        if self._fd is not None:
            self._dirty, self._synced_s = False, now_s
            os.fdatasync(self._fd)

    def _close_segment(self) -> None:
        fd, self._fd, self._dirty = self._fd, None, False
        if fd is not None:
            os.close(fd)

    def _refused(self, records: list[_Frame], error: OSError) -> None:
        keep = self._max_records
        if len(records) > keep:
            self._drop(len(records) - keep, f"the disk refuses them: {error}")
        self._stuck = records[:keep]
        self._complain(f"cannot be written to {self._folder}, and wait in memory: {error}")

    def _drop(self, count: int, why: str) -> None:
        self.dropped += count
        self._complain(f"are dropped, {self.dropped} so far, because {why}")

    def _complain(self, what: str) -> None:
        now_s = time.monotonic()
        if now_s - self._complained_s >= COMPLAIN_S:
            self._complained_s = now_s
            logger.error("usage records %s", what)
