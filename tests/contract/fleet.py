"""Equal replicas in virtual time, under calls that share a prefix."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass

from router.load import ReplicaLoad, Work
from router.types import Features, Policy

S_PER_TOKEN = 1e-4


@dataclass(frozen=True, slots=True)
class Traffic:
    """Calls at random times. Each prompt is the shared prefix and as many tokens of its own.

    load:     of the replicas' prefill, the share that the calls take when all of them hold the prefix.
    sessions: so many take turns; 0: no call names one.
    """

    prefix_tokens: int = 2000
    own_tokens: int = 500
    output_tokens: float = 50.0
    decode_s: float = 0.5
    load: float = 0.7
    calls: int = 800
    sessions: int = 0


def shares(policy: Policy, traffic: Traffic, *, replicas: int = 4, seed: int = 1) -> Counter[str]:
    """How many calls each replica gets.

    A replica prefills one prompt after the other, decodes any number at once, and holds the prefix from when it was
    first sent.
    """
    rng = random.Random(seed)
    loads = [ReplicaLoad(f"p-{i}", kv_capacity_tokens=1_000_000) for i in range(replicas)]
    holds, free_s = [False] * replicas, [0.0] * replicas
    prompt_tokens = traffic.prefix_tokens + traffic.own_tokens
    calls_per_s = traffic.load * replicas / (traffic.own_tokens * S_PER_TOKEN)
    events: list[tuple[float, int, bool, int]] = []
    works: list[Work] = []
    now_s, chosen = 0.0, Counter({load.name: 0 for load in loads})
    for call in range(traffic.calls):
        now_s += rng.expovariate(calls_per_s)
        while events and events[0][0] <= now_s:
            at_s, _, ends, which = heapq.heappop(events)
            if ends:
                works[which].close()
            else:
                works[which].first_token(at_s)
        cached = [traffic.prefix_tokens if held else 0 for held in holds]
        session = f"session-{call % traffic.sessions}" if traffic.sessions else ""
        to = policy.choose(Features(prompt_tokens, traffic.output_tokens, cached, session, now_s), loads)
        works.append(loads[to].begin(prompt_tokens, cached[to], traffic.output_tokens, now_s))
        free_s[to] = max(now_s, free_s[to]) + (prompt_tokens - cached[to]) * S_PER_TOKEN
        heapq.heappush(events, (free_s[to], 2 * call, False, call))
        heapq.heappush(events, (free_s[to] + traffic.decode_s, 2 * call + 1, True, call))
        holds[to] = True
        chosen[loads[to].name] += 1
    return chosen
