"""How fast the engines of a pool are, by what the access log says of their answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from gateway.simulator.access_trace import Measured
from gateway.simulator.engine import NEVER, EngineCost, Job
from gateway.simulator.plan import CLOUD_TPOT_S, CLOUD_TTFT_S, EngineSpec, Plan
from gateway.simulator.report import quantile, tpot_of

LEAST = 5
"""Answers that say something of a pool."""
QUICK = 0.8
"""The quickest fifth of the answers had to wait for nobody: what they took is what the engine takes."""
LEAST_DECODED = 8
MOST_CORRECTED = 2.0
"""In one step: what was simulated under overload says little of how much."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Of a pool.

    prefill, decode: its share of the speed that the costs are for.
    ttft_s, tpot_s:  what its answers took, half of them less.
    """

    prefill: float = 1.0
    decode: float = 1.0
    ttft_s: float = CLOUD_TTFT_S
    tpot_s: float = CLOUD_TPOT_S

    def applied(self, spec: EngineSpec, cost: EngineCost) -> EngineSpec:
        """An engine at this pace."""
        if spec.elastic:
            return replace(spec, ttft_s=self.ttft_s, tpot_s=self.tpot_s)
        return replace(spec, cost=cost.paced(self.prefill, self.decode))


def paces_of(measured: Sequence[Measured], cost: EngineCost) -> dict[str, Pace]:
    """By pool, of those that the log says enough about."""
    by_pool: dict[str, list[Measured]] = {}
    for one in measured:
        by_pool.setdefault(one.pool, []).append(one)
    return {pool: pace for pool, answers in by_pool.items() if (pace := _pace(answers, cost)) is not None}


def typical(paces: Sequence[Pace]) -> Pace:
    """For a pool of which the log says nothing: the middle of the others."""
    if not paces:
        return Pace()
    return Pace(
        median(pace.prefill for pace in paces),
        median(pace.decode for pace in paces),
        median(pace.ttft_s for pace in paces),
        median(pace.tpot_s for pace in paces),
    )


@dataclass(frozen=True, slots=True)
class Misfit:
    """How much longer the simulated times of a pool are than the measured ones: logarithms of the medians' ratios."""

    ttft: float
    tpot: float

    def corrected(self, pace: Pace, step: float) -> Pace:
        """What would have come closer. step: 1.0 if times were in proportion to the pace; they grow faster."""
        most = math.log(MOST_CORRECTED)
        prefill, decode = (math.exp(max(-most, min(most, step * one))) for one in (self.ttft, self.tpot))
        return replace(pace, prefill=pace.prefill * prefill, decode=pace.decode * decode)


def misfits(jobs: Sequence[Job], plan: Plan, measured: Sequence[Measured]) -> dict[str, Misfit]:
    """By pool.

    A request's time holds that of others in its batch, and waiting; so an engine's own cannot be read off a log, but
    has to be approached.
    """
    found: dict[str, Misfit] = {}
    for pool in {spec.pool for spec in plan.engines if not spec.elastic}:
        simulated = [job for job in jobs if job.ended_s != NEVER and plan.engines[job.engine].pool == pool]
        real = [one for one in measured if one.pool == pool and one.ttft_s]
        found[pool] = Misfit(
            _longer([job.first_s - job.request.arrival_s for job in simulated], [one.ttft_s for one in real]),
            _longer([tpot_of(job) for job in simulated], [one.tpot_s for one in real]),
        )
    return found


def _longer(simulated: Sequence[float | None], real: Sequence[float | None]) -> float:
    one = quantile(sorted(value for value in simulated if value), 0.5)
    other = quantile(sorted(value for value in real if value), 0.5)
    return math.log(one / other) if one and other else 0.0


def _pace(answers: Sequence[Measured], cost: EngineCost) -> Pace | None:
    streamed = [one for one in answers if one.ttft_s]
    if len(streamed) < LEAST:
        return None
    prefill = sorted(cost.prefill_s(one.prompt_tokens, one.cached_tokens) / (one.ttft_s or 1.0) for one in streamed)
    ttfts = sorted(one.ttft_s or 0.0 for one in streamed)
    decoded = [(one, tpot_s) for one in streamed if (tpot_s := one.tpot_s) and one.output_tokens >= LEAST_DECODED]
    decode = sorted(cost.decode_s(1, 1, one.prompt_tokens) / tpot_s for one, tpot_s in decoded)
    tpots = sorted(tpot_s for _one, tpot_s in decoded)
    return Pace(
        quantile(prefill, QUICK) or 1.0,
        quantile(decode, QUICK) or 1.0,
        quantile(ttfts, 0.5) or CLOUD_TTFT_S,
        quantile(tpots, 0.5) or CLOUD_TPOT_S,
    )
