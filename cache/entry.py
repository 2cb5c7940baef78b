"""What is kept, and the records of everything that changes it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from cache.answer import Answer
from cache.semantics.seam import Look

Source: TypeAlias = Literal["miss", "audit", "feedback", "planted"]
"""Where a judgement comes from: a fresh answer to a question that was near, a served one that was asked again, a
person, or a pair that was known beforehand."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An answer, and what finds it."""

    id: str
    """32 hexadecimal digits, random."""
    key: bytes
    """32 bytes: of the whole request."""
    partition: bytes
    """32 bytes: of everything but the last user text. None: found by its key alone."""
    cohort: str
    """tenant/deployment: what shares a bound on wrong hits."""
    tenant: str
    deployment: str
    model: str
    text: str
    """The last user text."""
    answer: Answer
    tags: tuple[str, ...]
    created_at: float
    """Unix seconds, as is:"""
    expires_at: float
    epoch: int
    vector: bytes = b""
    """float16, little endian, unit length."""
    embedder: str = ""
    """What made the vector, with its revision. Vectors of different ones cannot be compared."""
    saved_s: float = 0.0
    """How long the engine took for it."""
    nano_usd: int = 0
    """What the engine took for it, 10^-9 $."""
    first: bytes = b""
    """As `vector`, by the coarser table that is asked first; b"": there is none."""


class Selector(msgspec.Struct, frozen=True, omit_defaults=True):
    """Entries that agree with all that is given; with nothing given: all entries."""

    tenant: str | None = None
    deployment: str | None = None
    model: str | None = None
    tag: str | None = None
    cohort: str | None = None
    id: str | None = None
    before_epoch: int | None = None

    def matches(self, entry: Entry) -> bool:
        return (
            (self.tenant is None or self.tenant == entry.tenant)
            and (self.deployment is None or self.deployment == entry.deployment)
            and (self.model is None or self.model == entry.model)
            and (self.cohort is None or self.cohort == entry.cohort)
            and (self.id is None or self.id == entry.id)
            and (self.tag is None or self.tag in entry.tags)
            and (self.before_epoch is None or entry.epoch < self.before_epoch)
        )


class Added(msgspec.Struct, frozen=True, tag="added", array_like=True):
    entry: Entry


class Judged(msgspec.Struct, frozen=True, tag="judged", array_like=True):
    """Two answers were compared: the candidate's, and a fresh one to the question that it was near."""

    cohort: str
    look: Look
    fresh: str
    """Id of the entry of the fresh answer, "" if it has none."""
    equal: bool
    source: Source
    at: float


class Quarantined(msgspec.Struct, frozen=True, tag="quarantined", array_like=True):
    """Wrong: these are not served any more, nor what their cohort takes for the same answer."""

    ids: tuple[str, ...]
    at: float
    by: str


class Objected(msgspec.Struct, frozen=True, tag="objected", array_like=True):
    """A tenant says of an answer that all of them share that it is wrong: it is not given that one any more, and nobody
    once another tenant says so too."""

    id: str
    tenant: str
    at: float


class Voted(msgspec.Struct, frozen=True, tag="voted", array_like=True):
    """A tenant was given this answer to the question of that key. Tenant and answer are hashed with the secret."""

    key: bytes
    tenant: bytes
    answer: bytes
    at: float
    expires_at: float


class Purged(msgspec.Struct, frozen=True, tag="purged", array_like=True):
    """Of what was there before, all that is selected is gone."""

    selector: Selector
    at: float
    by: str


class Used(msgspec.Struct, frozen=True, tag="used", array_like=True):
    """How often a worker served entries since it last said so."""

    hits: dict[str, int]
    """By id."""
    at: float
    by: str
    """The worker, which knows already."""


class Learned(msgspec.Struct, frozen=True, tag="learned", array_like=True):
    """All that a cohort learned from its judgements so far, in place of them."""

    cohort: str
    state: bytes
    labels: int
    """How many that were."""
    at: float


Record: TypeAlias = Added | Judged | Quarantined | Objected | Voted | Purged | Used | Learned
