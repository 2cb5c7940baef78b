"""What a library has of its entries, and what it asks of those who decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from cache.entry import Entry, Judged
from cache.semantics.seam import CohortStatus, Look, Near

if TYPE_CHECKING:
    from cache.signals import Signals

ENTRY_BYTES = 1500
"""Of memory that an entry takes besides what it takes when it is written down."""
VECTOR_BYTES = 700
"""The same for one that has a vector, besides 4 bytes for each of its numbers."""

_encode = msgspec.msgpack.Encoder().encode


class CohortLike(Protocol):
    """What decides for a tenant and deployment; `cache.semantics.cohort` has it."""

    def look(self, text: str, near: Sequence[Near]) -> Look: ...

    def added(self, entry_id: str, text: str, /) -> None: ...

    def learn(self, judged: Judged, /) -> None: ...

    def served(self, look: Look, audited: bool = ..., /) -> None: ...

    def lost(self, look: Look, /) -> None: ...

    def quarantine(self, entry_id: str, /) -> tuple[str, ...]: ...

    def forget(self, entry_id: str, /) -> None: ...

    def status(self) -> CohortStatus: ...

    def snapshot(self) -> bytes: ...

    def restore(self, state: bytes, /) -> None: ...


class Held(msgspec.Struct, frozen=True):
    """An entry, and what became of it."""

    entry: Entry
    hits: int
    confirmed: int
    """Judgements by which its answer fitted a question near its own."""
    contradicted: int
    size_bytes: int
    objectors: tuple[str, ...] = ()
    """Tenants who say that it is wrong."""


class Preview(msgspec.Struct, frozen=True):
    """What a purge would take."""

    entries: int
    size_bytes: int


class LibraryStats(msgspec.Struct):
    entries: int = 0
    size_bytes: int = 0
    max_bytes: int = 0
    vectors: int = 0
    partitions: int = 0
    exact_hits: int = 0
    semantic_hits: int = 0
    added: int = 0
    replaced: int = 0
    """By a newer answer to the same question."""
    evicted: int = 0
    expired: int = 0
    quarantined: int = 0
    purged: int = 0
    too_large: int = 0


class Slot(msgspec.Struct, gc=False):
    """Without the garbage collector, which would look at each of very many in vain: there is no cycle."""

    entry: Entry
    number: int
    clock: float
    size_bytes: int
    hits: int = 0
    confirmed: int = 0
    contradicted: int = 0
    indexed: bool = False
    objectors: tuple[str, ...] = ()
    signals: Signals | None = None


def size_of(entry: Entry) -> int:
    """Bytes of memory that count for it."""
    vector = VECTOR_BYTES + 2 * (len(entry.vector) + len(entry.first)) if entry.vector else 0
    return len(_encode(entry)) + ENTRY_BYTES + vector
