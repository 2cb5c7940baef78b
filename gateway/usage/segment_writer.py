"""The side of a spool that waits for the disk."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Final

from gateway.usage.frames import framed
from gateway.usage.record import Pricing, Tariff, UsageRecord
from gateway.usage.segments import create, size_of

logger = logging.getLogger(__name__)

SYNC_S: Final = 1.0
"""Written records are on the disk within about this time; until then they outlive the process, but not the power."""
LOOK_S: Final = 1.0
"""How often the size of all segments is looked at, those of other workers included."""
RETRY_S: Final = 1.0
SEGMENT_BYTES: Final = 4 * 1024 * 1024
SEGMENT_S: Final = 60.0
"""A segment that holds anything is finished at this age, so that it can be deleted once it is in the database."""
COMPLAIN_S: Final = 60.0

_Frame = tuple[bytes, str]
"""A record as it is written, and the model by whose price it was reckoned; empty: by none."""


class SegmentWriter:
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
        records = [*self._stuck, *self._framed(fresh)]
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

    def _framed(self, fresh: list[UsageRecord | None]) -> list[_Frame]:
        """Without those that cannot be written at all: others must not be lost with them."""
        frames = []
        for made in fresh:
            if made is not None:
                try:
                    frames.append(self._reckoned(made))
                except (ValueError, ArithmeticError) as error:
                    self._drop(1, f"they cannot be written: {type(error).__name__}")
        return frames

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


def tariff(pricing: Pricing, model: str) -> bytes:
    """The price of a model, as it stands in a file; nothing if it has none."""
    price = pricing.price(model)
    return b"" if price is None else framed(Tariff(pricing.version, model, price))
