"""A heavy tenant in front of four simulated replicas, in virtual time (R09)."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from router.fair_queue import RESERVE, Entry, FairQueue, charge

REPLICAS = 4
SLOTS = 32
CHUNK_TOKENS = 2048
STEP_S, STEP_REQUEST_S, PREFILL_TOKEN_S = 0.0106, 0.00042, 5.7e-5
"""A step of an engine: fixed, for each request that decodes, for each token of prefill."""
SPAN_S = 60.0
LIGHT = [f"light{i}" for i in range(5)]
LIGHT_PER_S = 1.4
"""Of each light tenant. All of them together take about a third of what the replicas can do."""
MEAN_OUTPUT = 150


@dataclass(eq=False)
class Request:
    tenant: str
    at_s: float
    prompt_tokens: int
    output_tokens: int
    prefill_left: int = 0
    left: int = 0
    first_s: float = math.inf
    end_s: float = math.inf


@dataclass
class Replica:
    """Continuous batching with chunked prefill, first come, first served."""

    waiting: deque[Request] = field(default_factory=deque)
    running: list[Request] = field(default_factory=list)
    ends_s: float = math.inf
    """When the step that goes on now ends; inf: it is idle."""

    @property
    def in_flight(self) -> int:
        return len(self.waiting) + len(self.running)

    @property
    def backlog_s(self) -> float:
        return sum(request.prefill_left for request in self.waiting) * PREFILL_TOKEN_S

    def step(self, now_s: float) -> None:
        budget = CHUNK_TOKENS
        for request in self.waiting:
            request.left = min(budget, request.prefill_left)
            budget -= request.left
        self.ends_s = now_s + STEP_S + STEP_REQUEST_S * len(self.running) + PREFILL_TOKEN_S * (CHUNK_TOKENS - budget)

    def stepped(self) -> int:
        """The step has ended. How many requests have."""
        now_s, self.ends_s = self.ends_s, math.inf
        for request in self.running:
            request.left -= 1
            if not request.left:
                request.end_s = now_s
        going = [request for request in self.running if request.left]
        ended = len(self.running) - len(going)
        while self.waiting and self.waiting[0].left == self.waiting[0].prefill_left:
            request = self.waiting.popleft()
            request.first_s, request.left = now_s, request.output_tokens
            going.append(request)
        for request in self.waiting:
            request.prefill_left -= request.left
        self.running = going
        return ended


class Site:
    """Four replicas behind a queue. `fair`: whether tenants are told apart in it."""

    def __init__(self, *, fair: bool, hold_over_s: float) -> None:
        self.fair = fair
        self.hold_over_s = hold_over_s
        self.replicas = [Replica() for _ in range(REPLICAS)]
        self.queue: FairQueue[Request] = FairQueue(10_000)
        self.chosen = self.replicas[0]

    def fits(self, entry: Entry[Request]) -> bool:
        """Late binding: the replica with the least ahead of it, at the moment at which one has a place."""
        places = sum(SLOTS - replica.in_flight for replica in self.replicas)
        if self.fair and not entry.behind and places <= REPLICAS * SLOTS * RESERVE:
            return False
        free = [r for r in self.replicas if r.in_flight < SLOTS and r.backlog_s <= self.hold_over_s]
        if free:
            self.chosen = min(free, key=lambda r: (r.backlog_s, r.in_flight))
        return bool(free)

    def run(self, requests: Iterable[Request]) -> None:
        """Until `SPAN_S`."""
        arrivals = [(request.at_s, i, request) for i, request in enumerate(requests)]
        heapq.heapify(arrivals)
        now_s = 0.0
        while now_s < SPAN_S:
            first = min(self.replicas, key=lambda r: r.ends_s)
            if arrivals and arrivals[0][0] <= first.ends_s:
                now_s, _, request = heapq.heappop(arrivals)
                tenant = request.tenant if self.fair else "everybody"
                cost = charge(request.prompt_tokens, MEAN_OUTPUT)
                assert self.queue.push(Entry(tenant, cost, request), now_s) is None
            else:
                now_s = first.ends_s
                first.stepped()
            self.serve(now_s)

    def serve(self, now_s: float) -> None:
        while (entry := self.queue.pop(now_s, self.fits)) is not None:
            entry.payload.prefill_left = entry.payload.prompt_tokens
            self.queue.settle(entry, charge(entry.payload.prompt_tokens, entry.payload.output_tokens))
            self.chosen.waiting.append(entry.payload)
        for replica in self.replicas:
            if replica.ends_s == math.inf and replica.in_flight:
                replica.step(now_s)


def load(seed: int, tenants: Iterable[tuple[str, float]]) -> list[Request]:
    """Poisson arrivals; long tails in both lengths. A tenant's requests do not depend on who else there is."""
    requests = []
    for tenant, per_s in tenants:
        rng = random.Random(f"{seed} {tenant}")
        at_s = rng.expovariate(per_s)
        while at_s < SPAN_S:
            prompt = int(min(8000.0, rng.lognormvariate(6.5, 0.8)))
            output = 1 + int(min(1000.0, rng.expovariate(1 / MEAN_OUTPUT)))
            requests.append(Request(tenant, at_s, prompt, output))
            at_s += rng.expovariate(per_s)
    return requests


def p99_ttft_s(requests: Iterable[Request]) -> float:
    """Of the light tenants', but for those of the last seconds, which may be under way."""
    ttfts = sorted(r.first_s - r.at_s for r in requests if r.tenant in LIGHT and r.at_s < SPAN_S - 5.0)
    return ttfts[math.ceil(0.99 * len(ttfts)) - 1]


def output_tokens(requests: Iterable[Request]) -> int:
    return sum(r.output_tokens for r in requests if r.end_s <= SPAN_S)


@dataclass(frozen=True)
class Outcome:
    """p99 TTFT of the light tenants alone, beside the heavy one by fair shares, and there first come, first served.
    throughput: output tokens by fair shares over those of first come, first served."""

    alone_ttft_s: float
    fair_ttft_s: float
    fcfs_ttft_s: float
    throughput: float


def outcome(seed: int, hold_over_s: float) -> Outcome:
    light = [(tenant, LIGHT_PER_S) for tenant in LIGHT]
    everybody = [*light, ("heavy", 20 * LIGHT_PER_S)]
    alone, fair, fcfs = load(seed, light), load(seed, everybody), load(seed, everybody)
    Site(fair=True, hold_over_s=hold_over_s).run(alone)
    Site(fair=True, hold_over_s=hold_over_s).run(fair)
    Site(fair=False, hold_over_s=hold_over_s).run(fcfs)
    throughput = output_tokens(fair) / output_tokens(fcfs)
    return Outcome(p99_ttft_s(alone), p99_ttft_s(fair), p99_ttft_s(fcfs), throughput)


@pytest.mark.parametrize("seed", range(3))
def test_a_heavy_tenant_hardly_slows_the_others_and_throughput_stays(seed: int) -> None:
    """R09: 20 times the others' rate: p99 TTFT at most 1.5 times that alone, throughput at least 97 % of FCFS."""
    result = outcome(seed, hold_over_s=0.1)
    assert result.fair_ttft_s <= 1.5 * result.alone_ttft_s
    assert result.throughput >= 0.97
    assert result.fcfs_ttft_s > 10 * result.alone_ttft_s, "it is an overload, or nothing is shown"
