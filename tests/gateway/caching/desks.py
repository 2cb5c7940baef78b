"""A desk over a library of a few entries."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from cache.entry import Added, Entry, Record
from cache.journal.memory import MemoryJournal
from cache.journal.seam import JournalStatus
from cache.library import Library
from cache.semantics.cohort import Cohort
from cache.semantics.seam import Bound
from gateway.caching.desk import Desk, Spread
from gateway.caching.flights import Flights
from gateway.caching.judge import Labeller
from gateway.caching.tally import Tally
from tests.gateway.caching.labelling import answer

NOW = 1_000_000.0


def entry(number: int, **more: Any) -> Entry:
    known: dict[str, Any] = {
        "id": f"{number:032x}",
        "key": struct.pack(">32s", b"%d" % number),
        "partition": b"",
        "cohort": "default/m",
        "tenant": "default",
        "deployment": "m",
        "model": "m-1",
        "text": f"question {number}",
        "answer": answer(f"answer {number}"),
        "tags": (),
        "created_at": NOW - 10.0,
        "expires_at": NOW * 2e6,
        "epoch": 0,
        "saved_s": 1.5,
        "nano_usd": 2_000_000,
    }
    return Entry(**(known | more))


def library_of(*entries: Entry) -> Library:
    library = Library(Cohort, Bound(), max_bytes=1 << 20)
    for one in entries:
        library.apply(Added(one))
    return library


def desk_of(
    *entries: Entry,
    library: Library | None = None,
    told: list[Record] | None = None,
    labeller: Labeller | None = None,
    judge: str = "",
    worker_id: int = 0,
    spread: Spread | None = None,
    store: Callable[[], JournalStatus] | None = None,
) -> Desk:
    """told: gets every record besides the library."""
    kept = library or library_of(*entries)
    apply = kept.apply

    def tell(record: Record) -> None:
        apply(record)
        if told is not None:
            told.append(record)

    return Desk(
        kept,
        tell,
        Tally(),
        Flights(15.0),
        store or MemoryJournal().status,
        labeller,
        judge=judge,
        worker_id=worker_id,
        spread=spread,
        wall_s=lambda: NOW,
    )
