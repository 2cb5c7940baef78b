"""What a run comes to in figures, and the medians of several runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from gateway.simulator.access_trace import Measured
from gateway.simulator.engine import NEVER, EngineCost, Job
from gateway.simulator.plan import Plan

CURVE_POINTS = 200
"""Of a distribution, what is kept for plots: as many quantiles, evenly spaced."""
_QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


@dataclass(frozen=True, slots=True)
class Slo:
    """A request is good if its first token came within `ttft_s`, or `prefills` times what its whole prompt takes on an
    idle engine of speed 1 if that is more, and its other tokens came `tpot_s` apart on average."""

    ttft_s: float = 2.0
    prefills: float = 2.0
    tpot_s: float = 0.1

    def met(self, job: Job, cost: EngineCost) -> bool:
        tpot_s = tpot_of(job)
        limit_s = max(self.ttft_s, self.prefills * cost.prefill_s(job.request.prompt_tokens))
        return job.first_s - job.request.arrival_s <= limit_s and (tpot_s is None or tpot_s <= self.tpot_s)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run. `figures` by name, None where there was nothing to measure; `curves`: quantiles in seconds."""

    figures: dict[str, float | None]
    curves: dict[str, list[float]]


def outcome(jobs: Sequence[Job], plan: Plan, slo: Slo) -> Outcome:
    """The figures of one run."""
    cost = plan.cost
    done = [job for job in jobs if job.ended_s != NEVER]
    times = {
        "ttft": sorted(job.first_s - job.request.arrival_s for job in done),
        "tpot": sorted(tpot_s for job in done if (tpot_s := tpot_of(job)) is not None),
        "e2e": sorted(job.ended_s - job.request.arrival_s for job in done),
    }
    figures = _of_times(times)
    met = sum(slo.met(job, cost) for job in done)
    prompt_tokens = sum(job.request.prompt_tokens for job in done)
    lasted_s = max((job.ended_s for job in done), default=0.0) - min((j.request.arrival_s for j in jobs), default=0.0)
    figures |= {
        "slo_share": met / len(jobs) if jobs else None,
        "goodput_rps": met / lasted_s if lasted_s > 0.0 else None,
        "hit_rate": sum(job.cached_tokens for job in done) / prompt_tokens if prompt_tokens else None,
        "completed": len(done),
        "completed_share": len(done) / len(jobs) if jobs else None,
        "output_tokens_per_s": sum(j.request.output_tokens for j in done) / lasted_s if lasted_s > 0.0 else None,
        "fairness": _fairness(done, cost),
    }
    if any(engine.price is not None for engine in plan.engines):
        figures["price_usd"] = math.fsum(_price_usd(job, plan) for job in done)
    return Outcome(figures, {name: _curve(ordered) for name, ordered in times.items()})


def measured_figures(measured: Sequence[Measured]) -> dict[str, float | None]:
    """Those of `Outcome.figures` that an access log tells."""
    figures = _of_times(
        {
            "ttft": sorted(one.ttft_s for one in measured if one.ttft_s is not None),
            "tpot": sorted(tpot_s for one in measured if (tpot_s := one.tpot_s) is not None),
            "e2e": sorted(one.e2e_s for one in measured),
        }
    )
    prompt_tokens = sum(one.prompt_tokens for one in measured)
    figures["hit_rate"] = sum(one.cached_tokens for one in measured) / prompt_tokens if prompt_tokens else None
    figures["completed"] = len(measured)
    return figures


def _of_times(times: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    figures: dict[str, float | None] = {}
    for name, ordered in times.items():
        figures[f"mean_{name}_s"] = math.fsum(ordered) / len(ordered) if ordered else None
        for word, share in _QUANTILES:
            figures[f"{word}_{name}_s"] = quantile(ordered, share)
    return figures


def medians(outcomes: Sequence[Outcome]) -> Outcome:
    """Figure by figure and point by point."""
    first = outcomes[0]
    return Outcome(
        {name: _median(one.figures[name] for one in outcomes) for name in first.figures},
        {
            name: [median(points) for points in zip(*(one.curves[name] for one in outcomes), strict=False)]
            for name in first.curves
        },
    )


def tpot_of(job: Job) -> float | None:
    """Seconds per token after the first; None: there was only one."""
    tokens = job.request.output_tokens - 1
    return (job.ended_s - job.first_s) / tokens if tokens else None


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """By nearest rank; None: there is nothing."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def jain(shares: Sequence[float]) -> float | None:
    """Jain's index: 1 if all are equal, 1/n if one has it all. (Jain, Chiu, Hawe: DEC-TR-301.)"""
    squares = math.fsum(share * share for share in shares)
    return math.fsum(shares) ** 2 / (len(shares) * squares) if squares else None


def _fairness(done: Sequence[Job], cost: EngineCost) -> float | None:
    """Over tenants; a tenant's share is the speed that its requests had on average, as a share of that of an idle
    engine."""
    speeds: dict[str, list[float]] = {}
    for job in done:
        request = job.request
        decode_s = cost.decode_s(request.output_tokens - 1, 1, request.prompt_tokens + 1)
        alone_s = cost.prefill_s(request.prompt_tokens) + decode_s
        speeds.setdefault(request.caller.tenant, []).append(alone_s / (job.ended_s - request.arrival_s))
    return jain([math.fsum(of_one) / len(of_one) for of_one in speeds.values()])


def _price_usd(job: Job, plan: Plan) -> float:
    price, request = plan.engines[job.engine].price, job.request
    if price is None:
        return 0.0
    return (request.prompt_tokens * price.input_usd + request.output_tokens * price.output_usd) / 1e6


def _curve(ordered: Sequence[float]) -> list[float]:
    if not ordered:
        return []
    last = len(ordered) - 1
    return [ordered[round(i * last / (CURVE_POINTS - 1))] for i in range(CURVE_POINTS)]


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
