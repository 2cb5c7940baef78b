"""The response cache as those see it who run the gateway: how it does, what it holds, what has to go."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from cache.entry import Objected, Purged, Quarantined, Record, Selector
from cache.journal.seam import JournalStatus
from cache.library import Library
from cache.planted import JudgeError
from gateway.caching.asking import EVERYBODY
from gateway.caching.feedback import FeedbackTaken, entry_not_found, take_feedback
from gateway.caching.flights import Flights
from gateway.caching.judge import Labeller
from gateway.caching.report import (
    CacheReport,
    EntryReport,
    JudgeReport,
    Purge,
    cohort_report,
    entry_report,
    error_report,
    joined_report,
    merge_reports,
    store_report,
)
from gateway.caching.tally import Tally
from gateway.clock import wall_time_s
from gateway.errors import NotFound
from gateway.identity import Caller

logger = logging.getLogger(__name__)

REPORT: Final = b"report"
"""What one worker asks another one, unless it is one of the messages below."""
Spread = Callable[[bytes], Awaitable[list[bytes]]]
"""Gives a message to the `take` of every worker, this one included, and returns what they say."""


class Complaint(msgspec.Struct, frozen=True, tag="complaint", array_like=True):
    """Of a caller, about an entry that the worker which was told does not have."""

    entry_id: str
    tenant: str
    key_name: str
    wrong: bool
    admin: bool = False


class Wanted(msgspec.Struct, frozen=True, tag="wanted", array_like=True):
    """An entry that the worker which was asked does not have. tenant: of who asks."""

    entry_id: str
    tenant: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Purged | Quarantined | Objected | Complaint | Wanted).decode


class Desk:
    """Of one worker.

    tell:   applies a record here and writes it into the journal.
    store:  says how the journal stands.
    spread: None: there are no other workers.
    """

    def __init__(
        self,
        library: Library,
        tell: Callable[[Record], None],
        tally: Tally,
        flights: Flights,
        store: Callable[[], JournalStatus],
        labeller: Labeller | None,
        *,
        judge: str = "",
        worker_id: int = 0,
        spread: Spread | None = None,
        wall_s: Callable[[], float] = wall_time_s,
    ) -> None:
        self.library = library
        self.tally = tally
        self.flights = flights
        self.store = store
        self.labeller = labeller
        self._tell = tell
        self._judge = judge
        self._worker_id = worker_id
        self._spread = spread
        self._wall_s = wall_s

    def take(self, message: bytes) -> bytes:
        """What another worker wants: this one's report, an entry that only this one has, or that it goes by a record
        before the journal brings it. Returns JSON; empty: there is nothing to say."""
        if message == REPORT:
            return self.report().model_dump_json().encode()
        match _decode(message):
            case Complaint(entry_id, tenant, key_name, wrong, admin):
                caller = Caller(key_name, tenant, admin=admin)
                return self._said(lambda: self._take_complaint(caller, entry_id, wrong=wrong)[0])
            case Wanted(entry_id, tenant):
                return self._said(lambda: self._entry(entry_id, tenant))
            case record:
                self.library.apply(record)
                return b""

    async def overall(self) -> CacheReport:
        """What all workers say."""
        if self._spread is None:
            return self.report()
        told = [CacheReport.model_validate_json(one) for one in await self._spread(REPORT) if one]
        return merge_reports(told) if told else self.report()

    async def inspect(self, entry_id: str, caller: Caller) -> EntryReport:
        """Its texts are for its tenant alone.

        Raises:
            NotFound: there is no such entry.
        """
        try:
            return self._entry(entry_id, caller.tenant)
        except NotFound:
            return EntryReport.model_validate_json(await self._from_others(Wanted(entry_id, caller.tenant), entry_id))

    async def purge(self, selector: Selector, by: str, *, dry_run: bool) -> Purge:
        """Forget what is selected, in every worker."""
        found = self.library.preview(selector)
        if not dry_run:
            logger.warning("cache: %s purges %s: %d entries", by, selector, found.entries)
            await self._tell_all(Purged(selector, self._wall_s(), by))
        return Purge(entries=found.entries, size_bytes=found.size_bytes, dry_run=dry_run)

    async def feedback(self, caller: Caller, entry_id: str, *, wrong: bool) -> FeedbackTaken:
        """
        Raises:
            NotFound: the caller's tenant owns no such entry.
        """
        try:
            taken, told = self._take_complaint(caller, entry_id, wrong=wrong)
        except NotFound:
            asked = Complaint(entry_id, caller.tenant, caller.key_name, wrong, caller.admin)
            return FeedbackTaken.model_validate_json(await self._from_others(asked, entry_id))
        for record in told:
            await self._to_others(record)
        return taken

    def _take_complaint(self, caller: Caller, entry_id: str, *, wrong: bool) -> tuple[FeedbackTaken, list[Record]]:
        """And what the other workers are to be told."""
        told: list[Record] = []

        def tell(record: Record) -> None:
            self._tell(record)
            if isinstance(record, Quarantined | Objected):
                told.append(record)

        return take_feedback(self.library, tell, caller, entry_id, wrong=wrong, at=self._wall_s()), told

    def _entry(self, entry_id: str, tenant: str) -> EntryReport:
        held = self.library.held(entry_id)
        if held is None:
            raise entry_not_found(entry_id)
        return entry_report(held, texts=held.entry.tenant in (tenant, EVERYBODY))

    async def _from_others(self, message: Complaint | Wanted, entry_id: str) -> bytes:
        """What the one says that has the entry, where workers share no store.

        Raises:
            NotFound: nobody has it.
        """
        answers = [] if self._spread is None else await self._spread(_encode(message))
        for answer in answers:
            if answer:
                return answer
        raise entry_not_found(entry_id)

    @staticmethod
    def _said(answer: Callable[[], FeedbackTaken | EntryReport]) -> bytes:
        try:
            return answer().model_dump_json().encode()
        except NotFound:
            return b""

    async def _tell_all(self, record: Record) -> None:
        self._tell(record)
        await self._to_others(record)

    async def _to_others(self, record: Record) -> None:
        if self._spread is not None:
            await self._spread(_encode(record))

    def report(self) -> CacheReport:
        """What this worker says."""
        stats, tally = self.library.stats(), self.tally
        cohorts = [(name, cohort.status()) for name, cohort in sorted(self.library.cohorts.items())]
        return CacheReport(
            workers=[self._worker_id],
            entries=stats.entries,
            size_bytes=stats.size_bytes,
            max_bytes=stats.max_bytes,
            hits={"exact": stats.exact_hits, "semantic": stats.semantic_hits},
            misses={tier: count for (tier, result), count in tally.lookups.items() if result == "miss"},
            refusals={f"{tier}: {reason}": count for (tier, reason), count in tally.refusals.items()},
            dropped=dropped(self.library),
            joined=joined_report(self.flights),
            store=store_report(self.store()),
            saved_tokens=tally.saved_tokens.total(),
            saved_s=sum(tally.saved_s.values()),
            saved_usd=tally.saved_nano_usd.total() / 1e9,
            cohorts=[cohort_report(name, status, self.stated(status.bound)) for name, status in cohorts],
            judge=self._judge_report(),
        )

    def stated(self, bound: float) -> float:
        """A bound, with what the judge may have missed."""
        return bound if self.labeller is None else self.labeller.stated(bound)

    def _judge_report(self) -> JudgeReport:
        labeller = self.labeller
        labels: dict[str, int] = {}
        if labeller is not None:
            for (_, outcome), count in labeller.outcomes.items():
                labels[outcome] = labels.get(outcome, 0) + count
        error = JudgeError(0.95) if labeller is None else labeller.error
        return JudgeReport(
            deployment=self._judge,
            asked={} if labeller is None else dict(labeller.asked),
            labels=labels,
            waiting=0 if labeller is None else labeller.waiting,
            dropped=0 if labeller is None else labeller.dropped,
            shed=0 if labeller is None else labeller.shed,
            usd=0.0 if labeller is None else labeller.nano_usd / 1e9,
            same=error_report(error.same),
            different=error_report(error.different),
            objection="" if labeller is None else labeller.objection,
            unfit=labeller is not None and labeller.unfit,
        )


def dropped(library: Library) -> dict[str, int]:
    """Entries that are gone, or never were taken, by the reason."""
    stats = library.stats()
    reasons = ("replaced", "evicted", "expired", "quarantined", "purged", "too_large")
    return {reason: getattr(stats, reason) for reason in reasons}
