"""The seam to journals, and what all of them share.

A journal puts the records of all workers into one order and tells them to each worker's library in that order. Records
that may be told twice reach the worker's own library at once; the others, that is judgements, only in their turn, so
that all cohorts learn the same from the same order. Nobody ever waits for a journal: while it is away, records wait,
within bounds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol, TypeAlias

import msgspec

from cache.entry import Added, Learned, Purged, Quarantined, Record, Used

logger = logging.getLogger(__name__)

AT_ONCE = (Added, Quarantined, Purged, Used)
"""Told to the worker's own library at once, and perhaps again in their turn."""
SECRET_BYTES = 32
WAITING_BYTES = 16 * 1024 * 1024
"""Of records that wait for a journal that is away; over it, the oldest are dropped."""
SLICE = 8
"""Records told before the loop gets to do something else."""

WallTime: TypeAlias = Callable[[], float]

_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


class Listener(Protocol):
    """Who is told: the library."""

    def apply(self, record: Record, /) -> Record:
        """Returns what others should be told of it."""

    def learned(self, cohort: str, now: float, /) -> Learned | None: ...


class JournalStatus(msgspec.Struct, frozen=True):
    name: str
    state: Literal["ok", "away"]
    reason: str = ""
    """Why it is away."""
    waiting: int = 0
    """Own records that are not confirmed."""
    dropped: int = 0
    """Own records that nobody else will ever hear of."""
    skipped: int = 0
    """Records that could not be read."""


class Journal(Protocol):
    @property
    def secret(self) -> bytes:
        """32 bytes that all workers share; made up by this one for as long as the journal has not answered yet."""

    async def start(self, listener: Listener, within_s: float = 2.0) -> None:
        """Tell all that is there, and from then on what comes. Returns when it has caught up, or after that time."""

    def append(self, record: Record) -> None:
        """Never blocks, never raises."""

    def status(self) -> JournalStatus: ...

    async def settled(self) -> None:
        """Returns once all that was appended is confirmed: no crash of this worker can lose it."""

    async def aclose(self) -> None:
        """Waits a moment for what is not confirmed."""


def encoded(record: Record) -> bytes:
    return _encode(record)


def decoded(body: bytes) -> Record | None:
    """None: it is damaged, or of a kind that this version does not know."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


@dataclass(frozen=True, slots=True)
class Waiting:
    number: int
    """Of this worker's records, from 1."""
    record: Record
    body: bytes


class Outbox:
    """A worker's own records until they are confirmed, in order. Only the loop changes it; `first` may be called from
    another thread as well."""

    def __init__(self, max_bytes: int = WAITING_BYTES) -> None:
        self._max_bytes = max_bytes
        self._waiting: deque[Waiting] = deque()
        self._size_bytes = 0
        self._settling: list[tuple[int, asyncio.Future[None]]] = []
        self.last = 0
        """Number of the newest."""
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, record: Record) -> list[Record]:
        """Returns those that were dropped for it."""
        body = encoded(record)
        self.last += 1
        self._waiting.append(Waiting(self.last, record, body))
        self._size_bytes += len(body)
        out = []
        while self._size_bytes > self._max_bytes:
            oldest = self._waiting.popleft()
            self._size_bytes -= len(oldest.body)
            out.append(oldest.record)
        self.dropped += len(out)
        return out

    def first(self, count: int) -> list[Waiting]:
        return list(islice(self._waiting, count))  # in one step of the interpreter

    def confirm(self, number: int) -> None:
        """All up to this one."""
        while self._waiting and self._waiting[0].number <= number:
            self._size_bytes -= len(self._waiting.popleft().body)
        for wanted, future in self._settling:
            if wanted <= number and not future.done():
                future.set_result(None)
        self._settling = [each for each in self._settling if not each[1].done()]

    async def settled(self) -> None:
        """Returns once all that is in it now is confirmed."""
        if self._waiting:
            future = asyncio.get_running_loop().create_future()
            self._settling.append((self.last, future))
            await future


def tell(listener: Listener, record: Record) -> Record:
    """What others should be told of it. A record that the library cannot take must not keep the next from it."""
    try:
        return listener.apply(record)
    except Exception:
        logger.exception("the response cache could not take a record: %s", type(record).__name__)
        return record


def tell_all(listener: Listener, records: Iterable[Record]) -> None:
    for record in records:
        tell(listener, record)


def tell_dropped(listener: Listener, dropped: Iterable[Record]) -> None:
    """What nobody else will hear of is at least learned here."""
    tell_all(listener, (record for record in dropped if not isinstance(record, AT_ONCE)))
