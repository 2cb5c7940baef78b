"""What people say of an answer that came from the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field

from cache.entry import Entry, Judged, Objected, Quarantined, Record
from cache.library import Library
from cache.semantics.seam import Look
from gateway.caching.asking import EVERYBODY
from gateway.errors import NotFound
from gateway.identity import Caller

logger = logging.getLogger(__name__)


class Feedback(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    wrong: bool = Field(description="Whether the answer does not fit the question that it was served for.")


class FeedbackTaken(BaseModel):
    quarantined: int
    """Entries that are not served any more: it, and what was taken for the same answer."""
    hidden: int = 0
    """Entries that this tenant is not given any more, and nobody once another tenant says the same."""


def entry_not_found(entry_id: str) -> NotFound:
    """The same for what there never was, what is gone, and what is another tenant's."""
    return NotFound(f"There is no cache entry {entry_id[:100]!r}.", code="cache_entry_not_found")


def take_feedback(
    library: Library, tell: Callable[[Record], None], caller: Caller, entry_id: str, *, wrong: bool, at: float
) -> FeedbackTaken:
    """Withdraw what is wrong at once. An answer that all tenants share is kept from the one that says so, and from all
    once another says so too, or a key for administration.

    Raises:
        NotFound: there is no such entry that the caller's tenant owns or shares.
    """
    held = library.held(entry_id)
    if held is None or held.entry.tenant not in (caller.tenant, EVERYBODY):
        raise entry_not_found(entry_id)
    if not wrong:
        return FeedbackTaken(quarantined=0)
    by = f"{caller.tenant}/{caller.key_name}"
    others = [tenant for tenant in held.objectors if tenant != caller.tenant]
    if held.entry.tenant == EVERYBODY and not others and not caller.admin:
        tell(Objected(entry_id, caller.tenant, at))
        logger.warning("cache: %s says that entry %s of %s is wrong", by, entry_id, held.entry.cohort)
        return FeedbackTaken(quarantined=0, hidden=1)
    before = library.stats().quarantined
    complaint = _complaint(library, held.entry, at)
    if complaint is not None:
        tell(complaint)
    tell(Quarantined((entry_id,), at, by))
    count = library.stats().quarantined - before
    logger.warning(
        "cache: %s says that entry %s of %s is wrong; %d entries are withdrawn",
        by,
        entry_id,
        held.entry.cohort,
        count,
    )
    return FeedbackTaken(quarantined=count)


def _complaint(library: Library, entry: Entry, at: float) -> Judged | None:
    """What counts against the certificate; None: nothing is served by it. How certain it was is not known any more,
    but that it was certain enough is."""
    cut = library.cohort(entry.cohort).status().cut
    if not entry.vector or cut == float("inf"):
        return None
    return Judged(entry.cohort, Look(candidate=entry.id, score=cut, serves=True, cut=cut), "", False, "feedback", at)
