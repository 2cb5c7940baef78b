"""The seam to journals, and what all of them share.

A journal puts the records of all workers into one order and tells them to each worker's library in that order. Records
that may be told twice reach the worker's own library at once; the others, that is judgements, only in their turn, so
that all cohorts learn the same from the same order. Nobody ever waits for a journal: while it is away, records wait,
within bounds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Literal, Protocol, TypeAlias

import msgspec

from cache.entry import Added, Learned, Objected, Purged, Quarantined, Record, Used, Voted

logger = logging.getLogger(__name__)

AT_ONCE = (Added, Quarantined, Objected, Voted, Purged, Used)
"""Told to the worker's own library at once, and perhaps again in their turn."""
SECRET_BYTES = 32
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
    away_s: float = 0.0
    """For how long it has been."""


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
