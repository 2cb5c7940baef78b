"""The replica where the request costs the fewest seconds: its own, and those that it takes from others."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from router.load import ReplicaLoad
from router.types import Features

STALL = 0.25
"""Of the prefill's seconds, what each request in flight there is held up by: half of it, for the others are over
before. And that counts half: a second before a first token is one of latency and one of TTFT, this is of latency alone.
"""
BUSY = 4.0
"""A backlog lasts so many times longer than it takes to work off, for more arrives meanwhile: 1 / (1 - load), at three
quarters."""
FULL = 0.125
"""Of the mean latency, how much longer an answer takes where the KV cache is spoken for in full, as each step reads it:
a quarter. That too counts half."""
TIE = 0.01
"""Costs that lie within this share of the lowest are equal: whoever has the least to do, now and of late, is taken."""
TIE_S = 0.001
IDLE_HALF_S = 15.0
"""An idle replica's disadvantage halves in this time: what was learned of it grows old, its cache is there to be filled
(R01, R02)."""


class Seconds(NamedTuple):
    """What the request costs at one replica, in seconds.

    backlog_s: prefill that is ahead of it.
    prefill_s: its own: of the tokens that this replica does not hold, at its own speed.
    stall_s:   what that takes from those in flight, who have their first token. Each counts by its latency, the age
               that it has and the mean age that it has still ahead, as a share of the mean: so it is the squares of
               latencies that stay small, and no replica crawls on with few requests because they are few.
    delay_s:   what it takes from those that arrive before the backlog is gone.
    fixed_s:   round trip and scheduling.
    kv_s:      decoding among longer contexts.
    """

    backlog_s: float
    prefill_s: float
    stall_s: float
    delay_s: float
    fixed_s: float
    kv_s: float


class MarginalLatency:
    """cost = backlog + w * (1 + a * in flight by age + arrivals * backlog) + fixed time + kv. ADR 7 derives it.

    Arrivals per second follow from those in flight and their mean latency (Little's law), that from their mean age.
    """

    needs_prefix = True

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, features: Features, replicas: Sequence[ReplicaLoad]) -> int:
        if len(replicas) == 1:
            return 0
        costs = _costs(features, replicas, _seconds(features, replicas))
        limit = min(costs) * (1.0 + TIE) + TIE_S
        ties = [i for i, cost in enumerate(costs) if cost <= limit]
        if len(ties) == 1:
            return ties[0]
        now_s = features.now_s
        quiet = [
            (r.in_flight + r.others_in_flight, r.recent_tokens(now_s), r.served) for r in [replicas[i] for i in ties]
        ]
        least = min(quiet)
        return self._rng.choice([i for i, one in zip(ties, quiet, strict=True) if one == least])

    def terms(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[Mapping[str, float]]:
        seconds = _seconds(features, replicas)
        costs = _costs(features, replicas, seconds)
        return [{**one._asdict(), "cost": cost} for one, cost in zip(seconds, costs, strict=True)]


def _seconds(features: Features, replicas: Sequence[ReplicaLoad]) -> list[Seconds]:
    """Written out in one loop: a call per replica and term would be most of a decision's time."""
    now_s, prompt_tokens, cached = features.now_s, features.prompt_tokens, features.cached
    tokens = prompt_tokens + features.output_tokens
    ages_s = [max(0.0, r.in_flight * now_s - r.sent_sum_s) for r in replicas]
    in_flight = sum([r.in_flight for r in replicas])
    age_s = sum(ages_s, 0.0) / in_flight if in_flight else 0.0
    latency_s = 2.0 * age_s  # what is met in flight is halfway through
    arriving = BUSY * (in_flight + sum([r.others_in_flight for r in replicas], 0.0)) / len(replicas)
    seconds: list[Seconds] = []
    for i, r in enumerate(replicas):
        speed = r.speed
        held = cached[i] if cached else 0
        per_token = speed.s_per_token + speed.s_per_pair * (prompt_tokens + held)
        prefill_s = speed.s_per_request + (prompt_tokens - held) * per_token
        by_age = 0.5 * (r.in_flight + ages_s[i] / age_s) if age_s else r.in_flight
        backlog_s = delay_s = kv_s = 0.0
        if r.waiting or r.others_prefill_tokens:
            backlog_s = r.backlog_s(now_s)
            if prefill_s:
                # No latency is less than what lies ahead: in a burst all that is in flight is young.
                delay_s = arriving / (latency_s + prefill_s + backlog_s) * prefill_s * backlog_s
        if r.kv_capacity_tokens:
            kv_s = FULL * latency_s * (r.context_tokens + r.others_context_tokens + tokens) / r.kv_capacity_tokens
        stall_s = STALL * (by_age + r.others_in_flight) * prefill_s
        seconds.append(Seconds(backlog_s, prefill_s, stall_s, delay_s, speed.fixed_s, kv_s))
    return seconds


def _costs(features: Features, replicas: Sequence[ReplicaLoad], seconds: Sequence[Seconds]) -> list[float]:
    costs = [sum(one) for one in seconds]
    best = min(costs)
    for i, replica in enumerate(replicas):
        if not replica.in_flight and costs[i] > best and not replica.others_in_flight:
            idle_s = features.now_s - replica.last_sent_s
            costs[i] = best + (costs[i] - best) * 0.5 ** (idle_s / IDLE_HALF_S)
    return costs
