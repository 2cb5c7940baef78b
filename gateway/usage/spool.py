"""Where a worker leaves its records, so that neither a request nor a record depends on the database (A15)."""

from __future__ import annotations

import contextlib
import logging
import queue
import secrets
import threading
from pathlib import Path
from typing import Final

from gateway.clock import wall_time_s
from gateway.config import Config
from gateway.config.database_options import Database
from gateway.process.machine import state_folder
from gateway.record import Record
from gateway.telemetry import Telemetry, series
from gateway.usage.frames import framed
from gateway.usage.record import Pricing, UsageRecord, counts, pricing_of, usage_record
from gateway.usage.segment_writer import SEGMENT_BYTES, SEGMENT_S, SegmentWriter, tariff
from gateway.usage.segments import make_folder
from gateway.usage.tail import Tail

logger = logging.getLogger(__name__)

GATHER_S: Final = 0.02
"""Records that come within this time are written together. Until then they are in memory that outlives the process."""
CLOSE_S: Final = 5.0


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
        self._writer = SegmentWriter(folder, self._nonce, pricing, max_bytes, max_records, segment_bytes, segment_s)
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


def open_spool(config: Config) -> Spool | None:
    """That of a worker; None: there is no database to keep anything in.

    Raises:
        OSError: its folder cannot be written.
    """
    if config.database is None:
        return None
    folder = folder_of(config.database)
    try:
        return Spool(folder, pricing_of(config), max_bytes=config.database.usage_spool_bytes)
    except OSError as error:
        where = "HEADRACE_STATE or database.usage_spool names another folder"
        raise OSError(f"usage cannot be kept in {folder}: {error.strerror}; {where}") from None


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
