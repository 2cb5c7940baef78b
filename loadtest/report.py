"""What a load came to, for people and for programs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from loadtest.results import Results


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of one figure, in milliseconds."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Slo:
    """What a request must keep to count as good; None: anything goes."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Of one load. Rates are per second of the test.

    goodput:   requests that succeeded and met every SLO, per second.
    tokens:    of the answers that succeeded.
    lag_ms:    how much later than due requests were sent; large: the client could not keep up, and the rest is suspect.
    e2e, ttft, tpot, itl: of the requests that succeeded.
    """

    requests: int
    succeeded: int
    failures: dict[str, int]
    statuses: dict[int, int]
    wall_s: float
    requests_per_s: float
    goodput: float
    tokens: int
    tokens_per_s: float
    chunks: int
    e2e_ms: Quantiles | None
    ttft_ms: Quantiles | None
    tpot_ms: Quantiles | None
    itl_ms: Quantiles | None
    lag_ms: Quantiles | None

    def json(self) -> str:
        return msgspec.json.encode(self).decode()


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of values in rising order, linear between neighbours."""
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def quantiles_ms(values_s: Iterable[float]) -> Quantiles | None:
    """None if there is no value; NaN counts as none."""
    ordered = sorted(value * 1e3 for value in values_s if value == value)
    if not ordered:
        return None
    figures = (sum(ordered) / len(ordered), *(quantile(ordered, share) for share in (0.5, 0.9, 0.99)), ordered[-1])
    return Quantiles(len(ordered), *(round(figure, 3) for figure in figures))


def summarize(results: Results, slo: Slo | None = None) -> Report:
    rows = [row for row, failure in enumerate(results.failure) if not failure]
    wall_s = max(results.wall_s, 1e-9)
    tokens = sum(results.tokens[row] for row in rows)
    good = sum(_meets(results, row, slo or Slo()) for row in rows)
    return Report(
        requests=len(results),
        succeeded=len(rows),
        failures={failure.name.lower(): count for failure, count in sorted(results.failures().items())},
        statuses=dict(sorted(Counter(results.status).items())),
        wall_s=round(wall_s, 3),
        requests_per_s=round(len(rows) / wall_s, 2),
        goodput=round(good / wall_s, 2),
        tokens=tokens,
        tokens_per_s=round(tokens / wall_s, 1),
        chunks=sum(results.chunks[row] for row in rows),
        e2e_ms=quantiles_ms(results.e2e_s[row] for row in rows),
        ttft_ms=quantiles_ms(results.ttft_s[row] for row in rows),
        tpot_ms=quantiles_ms(results.tpot_s[row] for row in rows),
        itl_ms=quantiles_ms(gap for row in rows for gap in results.gaps_of(row)),
        lag_ms=quantiles_ms(results.lag_s),
    )


def _meets(results: Results, row: int, slo: Slo) -> bool:
    figures = ((results.ttft_s[row], slo.ttft_s), (results.tpot_s[row], slo.tpot_s), (results.e2e_s[row], slo.e2e_s))
    # A figure that a request has not got, such as the TPOT of one token, cannot be missed.
    return not any(limit is not None and figure > limit for figure, limit in figures)


def table(report: Report) -> str:
    """For a terminal."""
    lines = [
        f"requests   {report.requests} in {report.wall_s:.2f} s, {report.succeeded} succeeded",
        f"rate       {report.requests_per_s:.1f} requests/s, {report.tokens_per_s:.0f} tokens/s",
        f"goodput    {report.goodput:.1f} requests/s",
    ]
    if report.failures:
        named = ", ".join(f"{count} {name}" for name, count in report.failures.items())
        statuses = ", ".join(f"{count} x {status or 'none'}" for status, count in report.statuses.items())
        lines.append(f"failures   {named} (statuses: {statuses})")
    lines.append(f"{'ms':10} {'mean':>10} {'p50':>10} {'p90':>10} {'p99':>10} {'max':>10}")
    named_rows = {
        "e2e": report.e2e_ms,
        "TTFT": report.ttft_ms,
        "TPOT": report.tpot_ms,
        "ITL": report.itl_ms,
        "sent late": report.lag_ms,
    }
    for name, row in named_rows.items():
        if row is not None:
            figures = " ".join(f"{figure:10.2f}" for figure in (row.mean, row.p50, row.p90, row.p99, row.max))
            lines.append(f"{name:10} {figures}")
    return "\n".join(lines)
