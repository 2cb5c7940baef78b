"""Many runs: every plan with every seed, in as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

from gateway.simulator.plan import Plan
from gateway.simulator.report import Outcome, Slo, medians, outcome
from gateway.simulator.run import simulate_plan
from gateway.simulator.trace import Trace

SMALL = 40_000
"""Requests in all runs together up to which starting processes costs more than it gains."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is to be compared. plans: by the name that it has in the answer."""

    trace: Trace
    plans: Mapping[str, Plan]
    slo: Slo = field(default_factory=Slo)

    def outcome(self, name: str, seed: int) -> Outcome:
        plan = self.plans[name]
        return outcome(simulate_plan(self.trace, plan, seed), plan, self.slo)


def run_all(
    batch: Batch, seeds: int, processes: int = 0, done: Callable[[], object] = lambda: None
) -> dict[str, Outcome]:
    """By plan, the medians over the seeds 1 to `seeds`. How many processes there are changes nothing but the time.

    Args:
        batch: what to run.
        seeds: how many runs of each plan.
        processes: 0: one per core, or none if there is little to do.
        done: called after each run.
    """
    runs = [(name, seed) for name in batch.plans for seed in range(1, seeds + 1)]
    count = min(processes or os.cpu_count() or 1, len(runs))
    if count == 1 or (not processes and len(runs) * len(batch.trace.requests) <= SMALL):
        outcomes = {}
        for run in runs:
            outcomes[run] = batch.outcome(*run)
            done()
    else:
        outcomes = _spread(batch, runs, count, done)
    return {name: medians([outcomes[name, seed] for seed in range(1, seeds + 1)]) for name in batch.plans}


def _spread(
    batch: Batch, runs: Sequence[tuple[str, int]], processes: int, done: Callable[[], object]
) -> dict[tuple[str, int], Outcome]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _remember, (batch,)) as pool:
        futures: dict[Future[Outcome], tuple[str, int]] = {pool.submit(_one, *run): run for run in runs}
        outcomes = {}
        for future in as_completed(futures):
            outcomes[futures[future]] = future.result()
            done()
        return outcomes


_shared: list[Batch] = []
"""In a process of the pool: the batch, so that the trace travels there once."""


def _remember(batch: Batch) -> None:
    _shared[:] = [batch]


def _one(name: str, seed: int) -> Outcome:
    return _shared[0].outcome(name, seed)
