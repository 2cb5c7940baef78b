"""What the metrics say of the response cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from cache.journal.seam import JournalStatus
from cache.planted import Share
from gateway.caching.asking import names_in
from gateway.caching.desk import Desk, dropped
from gateway.caching.flights import Flights
from gateway.caching.judge import Labeller
from gateway.caching.tally import Tally
from gateway.telemetry import Telemetry, cache_series

Rows = Iterable[tuple[tuple[str, ...], float]]
_NANO = 1e9
P = TypeVar("P", bound=tuple[str, str])


def watch_cache(telemetry: Telemetry, desk: Desk) -> None:
    """Fill the metrics from one worker's cache at each snapshot."""
    _watch_tally(telemetry, desk.tally)
    _watch_library(telemetry, desk)
    _watch_flights(telemetry, desk.flights)
    _watch_store(telemetry, desk.store)
    if desk.labeller is not None:
        _watch_labels(telemetry, desk.labeller)


def _watch_tally(telemetry: Telemetry, tally: Tally) -> None:
    telemetry.watch(cache_series.LOOKUPS.name, _rows(tally.lookups))
    telemetry.watch(cache_series.REFUSALS.name, _rows(tally.refusals))
    telemetry.watch(cache_series.SAVED_TOKENS.name, _rows(tally.saved_tokens))
    telemetry.watch(cache_series.SAVED_SECONDS.name, lambda: [((d,), s) for d, s in tally.saved_s.items()])
    telemetry.watch(
        cache_series.SAVED_USD.name, lambda: [((d,), nano / _NANO) for d, nano in tally.saved_nano_usd.items()]
    )


def _watch_library(telemetry: Telemetry, desk: Desk) -> None:
    library = desk.library

    def cohorts() -> Rows:
        states = Counter(cohort.status().state for cohort in library.cohorts.values())
        return [((state,), float(count)) for state, count in states.items()]

    def bounds() -> Rows:
        for name, cohort in library.cohorts.items():
            status = cohort.status()
            if status.state == "certified":
                yield _owner(name), status.bound

    def audited() -> Rows:
        for name, cohort in library.cohorts.items():
            status = cohort.status()
            if status.audited:
                yield from _estimates(_owner(name), Share(status.audited_wrong, status.audited, *status.interval))

    telemetry.watch(cache_series.ENTRIES.name, lambda: [((), len(library))])
    telemetry.watch(cache_series.BYTES.name, lambda: [((), library.size_bytes)])
    telemetry.watch(cache_series.DROPPED.name, lambda: [((why,), n) for why, n in dropped(library).items() if n])
    telemetry.watch(cache_series.COHORTS.name, cohorts)
    telemetry.watch(cache_series.BOUND.name, bounds)
    telemetry.watch(cache_series.AUDITED.name, audited)


def _watch_flights(telemetry: Telemetry, flights: Flights) -> None:
    telemetry.watch(cache_series.JOINED.name, lambda: [((), flights.joined)])
    telemetry.watch(cache_series.TAKEN_OVER.name, lambda: [((), flights.taken_over)])
    telemetry.watch(cache_series.JOINED_BYTES.name, lambda: [((), flights.held_bytes)])


def _watch_store(telemetry: Telemetry, store: Callable[[], JournalStatus]) -> None:
    telemetry.watch(cache_series.STORE_AWAY.name, lambda: [((), store().away_s)])
    telemetry.watch(cache_series.STORE_WAITING.name, lambda: [((), store().waiting)])
    telemetry.watch(cache_series.STORE_DROPPED.name, lambda: [((), store().dropped)])


def _watch_labels(telemetry: Telemetry, labeller: Labeller) -> None:
    def errors() -> Rows:
        for pairs, share in (("same", labeller.error.same), ("different", labeller.error.different)):
            if share.of:
                yield from _estimates((pairs,), share)

    telemetry.watch(cache_series.LABELS.name, _rows(labeller.outcomes))
    telemetry.watch(cache_series.LABELS_WAITING.name, lambda: [((), labeller.waiting)])
    telemetry.watch(cache_series.LABELS_DROPPED.name, lambda: [((), labeller.dropped)])
    telemetry.watch(cache_series.JUDGE_CALLS.name, lambda: [((said,), n) for said, n in labeller.asked.items()])
    telemetry.watch(cache_series.JUDGE_SHED.name, lambda: [((), labeller.shed)])
    telemetry.watch(cache_series.JUDGE_USD.name, lambda: [((), labeller.nano_usd / _NANO)])
    telemetry.watch(cache_series.JUDGE_ERROR.name, errors)
    telemetry.watch(cache_series.JUDGE_UNFIT.name, lambda: [((), float(labeller.unfit))])


def _rows(counts: Mapping[P, int]) -> Callable[[], Rows]:
    return lambda: [(labels, float(count)) for labels, count in counts.items()]


def _estimates(labels: tuple[str, ...], share: Share) -> Rows:
    yield (*labels, "observed"), share.wrong / share.of
    yield (*labels, "low"), share.low
    yield (*labels, "high"), share.high


def _owner(cohort: str) -> tuple[str, str]:
    tenant, deployment = names_in(cohort)
    return tenant, deployment
