"""Many runs: every policy with every seed, in as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

from gateway.simulator.report import Outcome, Price, Slo, medians, outcome
from gateway.simulator.run import Setting, simulate
from gateway.simulator.traces import Trace

SMALL = 40_000
"""Requests in all runs together up to which starting processes costs more than it gains."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What the runs have in common."""

    trace: Trace
    setting: Setting
    slo: Slo = field(default_factory=Slo)
    prices: tuple[Price, ...] = ()

    def outcome(self, policy: str, seed: int) -> Outcome:
        return outcome(simulate(self.trace, self.setting, policy, seed), self.setting.cost, self.slo, self.prices)


def run_all(
    batch: Batch,
    policies: Sequence[str],
    seeds: int,
    processes: int = 0,
    done: Callable[[], None] = lambda: None,
) -> dict[str, Outcome]:
    """By policy, the medians over the seeds 1 to `seeds`. How many processes there are changes nothing but the time.

    Args:
        batch: trace, engines, targets.
        policies: names from `router.policies.POLICIES`.
        seeds: how many runs of each policy.
        processes: 0: one per core.
        done: called after each run.
    """
    runs = [(policy, seed) for policy in policies for seed in range(1, seeds + 1)]
    count = min(processes or os.cpu_count() or 1, len(runs))
    if count == 1 or (not processes and len(runs) * len(batch.trace.requests) <= SMALL):
        outcomes = {}
        for run in runs:
            outcomes[run] = batch.outcome(*run)
            done()
    else:
        outcomes = _spread(batch, runs, count, done)
    return {policy: medians([outcomes[policy, seed] for seed in range(1, seeds + 1)]) for policy in policies}


def _spread(
    batch: Batch, runs: Sequence[tuple[str, int]], processes: int, done: Callable[[], None]
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


def _one(policy: str, seed: int) -> Outcome:
    return _shared[0].outcome(policy, seed)
