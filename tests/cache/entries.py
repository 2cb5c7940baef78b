"""Entries, and who decides about them, for tests of what keeps them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from cache.answer import Answer
from cache.entry import Entry, Judged
from cache.index import Floats, as_bytes
from cache.library import Library
from cache.semantics.cohort import Cohort
from cache.semantics.seam import Bound, CohortStatus, Look, Near
from cache.signals import read_signals

NOW = 1_700_000_000.0
DIMENSIONS = 32
COHORT = "acme/chat"


def digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def vector(seed: int, dimensions: int = DIMENSIONS) -> Floats:
    """Of unit length, and the same each time."""
    found = np.random.default_rng(seed).standard_normal(dimensions).astype(np.float32)
    return found / np.float32(np.linalg.norm(found))


def answer(said: str = "yes") -> Answer:
    shape = b'{"choices":[{"message":{"content":"%s"}}]}' % said.encode()
    return Answer("chat", False, "chat", "stop", 5, 1, b"{}", (shape,))


def entry(name: str, *, seed: int | None = None, said: str = "yes", **fields: Any) -> Entry:
    """Its key and id follow from its name; seed: of its vector."""
    given = {
        "id": digest(f"id {name}").hex()[:32],
        "key": digest(f"key {name}"),
        "partition": digest("partition") if seed is not None else b"",
        "cohort": COHORT,
        "tenant": "acme",
        "deployment": "chat",
        "model": "m@1",
        "text": f"what is {name}?",
        "answer": answer(said),
        "tags": (),
        "created_at": NOW,
        "expires_at": NOW + 3600,
        "epoch": 0,
        "vector": as_bytes(vector(seed)) if seed is not None else b"",
        "embedder": "table@1" if seed is not None else "",
        "saved_s": 1.0,
    }
    return Entry(**{**given, **fields})


def judged(candidate: str, equal: bool = True, at: float = NOW, cohort: str = COHORT) -> Judged:
    """candidate: name of an entry."""
    look = Look(candidate=digest(f"id {candidate}").hex()[:32], score=0.9, cosine=0.9, features=(1.0,), wanted=1.0)
    return Judged(cohort, look, "", equal, "miss", at)


class Told(msgspec.Struct):
    added: list[str] = []
    learned: list[tuple[str, bool]] = []
    quarantined: list[str] = []


class CountingCohort:
    """Remembers what it is told; never serves."""

    def __init__(self, bound: Bound) -> None:
        self.told = Told()
        self.classmates: dict[str, tuple[str, ...]] = {}
        self.hits = 0

    def look(self, text: str, near: Sequence[Near]) -> Look:
        return Look()

    def added(self, entry_id: str, text: str, /) -> None:
        self.told.added.append(entry_id)

    def learn(self, judged: Judged, /) -> None:
        self.told.learned.append((judged.look.candidate, judged.equal))

    def served(self, look: Look, audited: bool = False, /) -> None:
        self.hits += 1

    def lost(self, look: Look, /) -> None:
        self.hits -= 1

    def quarantine(self, entry_id: str, /) -> tuple[str, ...]:
        self.told.quarantined.append(entry_id)
        return (entry_id, *self.classmates.get(entry_id, ()))

    def forget(self, entry_id: str, /) -> None:
        self.told.added.remove(entry_id)

    def status(self) -> CohortStatus:
        return CohortStatus("cold", 1.0, 1.0, len(self.told.learned), self.hits, 0, 0, (0.0, 1.0))

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self.told.learned)

    def restore(self, state: bytes, /) -> None:
        self.told.learned = msgspec.msgpack.decode(state, type=list[tuple[str, bool]])


def library(max_bytes: int = 1_000_000, me: str = "me") -> Library:
    return Library(CountingCohort, Bound(), max_bytes=max_bytes, embedder="table@1", me=me)


def real_library(max_bytes: int = 10_000_000, me: str = "me") -> Library:
    """With the cohorts that serve."""
    return Library(Cohort, Bound(), max_bytes=max_bytes, embedder="table@1", read_signals=read_signals, me=me)


def told(of: Library, cohort: str = COHORT) -> Told:
    found = of.cohort(cohort)
    assert isinstance(found, CountingCohort)
    return found.told


def state_of(of: Library) -> object:
    """What two libraries that were told the same agree in."""
    held = {each: of.held(each) for each in sorted(of._ids)}
    learned = {name: told(of, name).learned for name in sorted(of.cohorts)}
    return held, learned, of.size_bytes
