"""What people and programs are told of the response cache: by one worker, and summed over all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pydantic import BaseModel

from cache.answer import text_of
from cache.held import Held
from cache.journal.seam import JournalStatus
from cache.planted import Share
from cache.semantics.seam import CohortStatus, State
from gateway.caching.asking import names_in
from gateway.caching.flights import Flights


class ErrorReport(BaseModel):
    """Wrong ones among those that were looked at. `low`, `high`: limits of their share."""

    wrong: int
    of: int
    low: float
    high: float


class CohortReport(BaseModel):
    tenant: str
    deployment: str
    state: State
    """cold: nothing is known; learning: not enough is; certified: answers are served; alarmed: it was wrong too often,
    and serves nothing."""
    bound: float
    """Upper limit of the share of wrong ones among its semantic hits, as the judge sees it; 1: there is none."""
    stated_bound: float
    """The same, with what the judge may have missed."""
    cut: float | None
    """Score from which on answers are served; none: nothing is."""
    labels: int
    hits: int
    audited: ErrorReport


class JudgeReport(BaseModel):
    deployment: str
    """Empty: there is none."""
    asked: dict[str, int]
    """By what came of it: same, different, unclear or failed."""
    labels: dict[str, int]
    """By what settled them: rules or judge; unclear: nobody could say, which counts as different; or why there is
    none: confined or failed."""
    waiting: int
    dropped: int
    shed: int
    """Times that it was not asked since others needed the engines."""
    usd: float
    same: ErrorReport
    """Known pairs that say the same: no bound below this share can be certified."""
    different: ErrorReport
    """Known pairs that do not: what it takes for the same is a wrong hit that nobody notices."""
    objection: str = ""
    """What speaks against it."""
    unfit: bool = False
    """Whether nothing semantic is served because of that."""


class JoinedReport(BaseModel):
    calls: int
    """That went along with another one, which asked the same at the same time."""
    taken_over: int
    """Of these, made anew, as the one before had failed."""
    size_bytes: int
    """Of memory, now, for calls that may yet go along."""


class StoreReport(BaseModel):
    kind: str
    """memory, sqlite or redis."""
    away: int
    """Workers for which it is not to be had."""
    away_s: float
    """For how long, in that which misses it longest."""
    reason: str
    """Why; empty: it is there."""
    waiting: int
    """Records that it has not confirmed."""
    dropped: int
    """Records that were lost, as too many waited."""
    skipped: int
    """Records in it that could not be read."""


class CacheReport(BaseModel):
    workers: list[int]
    """The workers whose numbers are in this sum."""
    entries: int
    size_bytes: int
    """Of memory, in all workers."""
    max_bytes: int
    hits: dict[str, int]
    """By tier: exact or semantic."""
    misses: dict[str, int]
    refusals: dict[str, int]
    """By tier and reason."""
    dropped: dict[str, int]
    joined: JoinedReport
    store: StoreReport
    saved_tokens: int
    saved_s: float
    saved_usd: float
    cohorts: list[CohortReport]
    judge: JudgeReport


class EntryReport(BaseModel):
    id: str
    tenant: str
    deployment: str
    model: str
    tags: list[str]
    epoch: int
    created_at: float
    expires_at: float
    hits: int
    confirmed: int
    contradicted: int
    size_bytes: int
    saved_s: float
    saved_usd: float
    semantic: bool
    """Whether it can be found by questions that are worded differently."""
    question_sha256: str
    answer_sha256: str
    question: str | None
    """Only for keys of the tenant that owns it, as `answer`."""
    answer: str | None


class Purge(BaseModel):
    """What a purge took, or would take."""

    entries: int
    size_bytes: int
    dry_run: bool


def entry_report(held: Held, *, texts: bool) -> EntryReport:
    entry, answer = held.entry, text_of(held.entry.answer)
    return EntryReport(
        id=entry.id,
        tenant=entry.tenant,
        deployment=entry.deployment,
        model=entry.model,
        tags=list(entry.tags),
        epoch=entry.epoch,
        created_at=entry.created_at,
        expires_at=entry.expires_at,
        hits=held.hits,
        confirmed=held.confirmed,
        contradicted=held.contradicted,
        size_bytes=held.size_bytes,
        saved_s=entry.saved_s,
        saved_usd=entry.nano_usd / 1e9,
        semantic=bool(entry.vector),
        question_sha256=_digest(entry.text),
        answer_sha256=_digest(answer),
        question=entry.text if texts else None,
        answer=answer if texts else None,
    )


def joined_report(flights: Flights) -> JoinedReport:
    return JoinedReport(calls=flights.joined, taken_over=flights.taken_over, size_bytes=flights.held_bytes)


def store_report(status: JournalStatus) -> StoreReport:
    return StoreReport(
        kind=status.name,
        away=int(status.state == "away"),
        away_s=status.away_s,
        reason=status.reason,
        waiting=status.waiting,
        dropped=status.dropped,
        skipped=status.skipped,
    )


def error_report(share: Share) -> ErrorReport:
    return ErrorReport(wrong=share.wrong, of=share.of, low=share.low, high=share.high)


def cohort_report(name: str, status: CohortStatus, stated: float) -> CohortReport:
    tenant, deployment = names_in(name)
    low, high = status.interval
    return CohortReport(
        tenant=tenant,
        deployment=deployment,
        state=status.state,
        bound=status.bound,
        stated_bound=stated,
        cut=status.cut if status.cut < float("inf") else None,
        labels=status.labels,
        hits=status.hits,
        audited=ErrorReport(wrong=status.audited_wrong, of=status.audited, low=low, high=high),
    )


def merge_reports(reports: Iterable[CacheReport]) -> CacheReport:
    """What several workers say as one. They keep the same entries and learn the same; each serves and asks by itself.

    Raises:
        ValueError: there is none.
    """
    first, *others = sorted(reports, key=lambda one: one.workers)
    total = first.model_copy(deep=True)
    for one in others:
        _add(total, one)
    return total


def _add(total: CacheReport, one: CacheReport) -> None:
    total.workers += one.workers
    total.entries = max(total.entries, one.entries)
    total.size_bytes += one.size_bytes
    for name in ("hits", "misses", "refusals"):
        _sum(getattr(total, name), getattr(one, name))
    for reason, count in one.dropped.items():
        total.dropped[reason] = max(total.dropped.get(reason, 0), count)
    total.joined.calls += one.joined.calls
    total.joined.taken_over += one.joined.taken_over
    total.joined.size_bytes += one.joined.size_bytes
    total.store = _of_both(total.store, one.store)
    total.saved_tokens += one.saved_tokens
    total.saved_s += one.saved_s
    total.saved_usd += one.saved_usd
    _add_cohorts(total.cohorts, one.cohorts)
    _add_judge(total.judge, one.judge)


def _of_both(one: StoreReport, other: StoreReport) -> StoreReport:
    """Of the records in it, all have read the same."""
    longest = max(one, other, key=lambda each: (each.away, each.away_s))
    return longest.model_copy(
        update={
            "away": one.away + other.away,
            "waiting": one.waiting + other.waiting,
            "dropped": one.dropped + other.dropped,
            "skipped": max(one.skipped, other.skipped),
        }
    )


def _add_cohorts(total: list[CohortReport], more: list[CohortReport]) -> None:
    """Of workers that know of the same cohort that one is believed which has learned most."""
    known = {(one.tenant, one.deployment): i for i, one in enumerate(total)}
    for one in more:
        at = known.get((one.tenant, one.deployment))
        if at is None:
            total.append(one)
        else:
            hits = total[at].hits + one.hits
            best = max(total[at], one, key=lambda each: each.labels)
            total[at] = best.model_copy(update={"hits": hits})


def _add_judge(total: JudgeReport, one: JudgeReport) -> None:
    _sum(total.asked, one.asked)
    _sum(total.labels, one.labels)
    total.waiting += one.waiting
    total.dropped += one.dropped
    total.shed += one.shed
    total.usd += one.usd
    total.same = max(total.same, one.same, key=lambda each: each.of)
    total.different = max(total.different, one.different, key=lambda each: each.of)
    total.objection = total.objection or one.objection
    total.unfit = total.unfit or one.unfit


def _sum(total: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        total[name] = total.get(name, 0) + count


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
