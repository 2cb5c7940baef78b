"""Two gateways side by side do not herd onto one replica (R06)."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean

import pytest

from engines.http import Endpoint, HttpEngine
from gateway.corrections import Corrections
from gateway.peers import EVERY_S, Peers, PlaceFailed
from gateway.replicas import Lease, Replica
from router.jitter import Jittered
from router.load import ReplicaLoad
from router.policies import POLICIES
from router.types import Features, Policy

Make = Callable[[random.Random], Policy]
REPLICAS = 4
PROMPT_TOKENS = 2000
LASTS_S = 3.0
"""From the first token to the last."""


class Time:
    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("this test says when peers meet")


class Table:
    """A place where notes lie, as two gateways see it. `shut`: nobody finds anything there."""

    name = "table"

    def __init__(self, notes: dict[int, bytes], seat: int) -> None:
        self._notes = notes
        self._seat = seat
        self.shut = False

    async def trade(self, note: bytes | None) -> list[bytes]:
        if self.shut:
            raise PlaceFailed("shut")
        if note is not None:
            self._notes[self._seat] = note
        return [told for seat, told in self._notes.items() if seat != self._seat]

    async def aclose(self) -> None:
        self._notes.pop(self._seat, None)


class Gateway:
    def __init__(self, seat: int, notes: dict[int, bytes], time: Time, policy: Make, *, jitter: bool = False) -> None:
        rng = random.Random(seat)
        self.replicas = [
            Replica(f"p-{i}", "p", "on-premise", "openai", HttpEngine(Endpoint("e", "http://e")), url=f"http://e{i}")
            for i in range(REPLICAS)
        ]
        self.table = Table(notes, seat)
        self.time = time
        self.peers = Peers([self.table], Corrections(lambda: self.replicas, "here"), time, rng)
        chosen = policy(rng)
        self.policy = Jittered(chosen, rng, lambda: self.peers.blind) if jitter else chosen

    def send(self, among: int) -> tuple[int, Lease]:
        """To one of the first `among` replicas."""
        features = Features(PROMPT_TOKENS, 100.0, now_s=self.time.now_s)
        index = self.policy.choose(features, [one.load for one in self.replicas[:among]])
        return index, self.replicas[index].lease(self.time.now_s, PROMPT_TOKENS, 0, 100.0)


class World:
    """Engines that prefill one prompt after the other and decode all together, and the gateways before them."""

    def __init__(self, policy: Make, *, share: bool, jitter: bool = False, s_per_token: float = 1e-4) -> None:
        self._s_per_token = s_per_token
        self.time = Time()
        notes: dict[int, bytes] = {}
        self.gateways = [Gateway(seat, notes, self.time, policy, jitter=jitter) for seat in range(2)]
        for gateway in self.gateways:
            gateway.table.shut = not share
        self._prefill_ends_s = [0.0] * REPLICAS
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.fullest: list[float] = []
        """At each request, how much more than the mean the fullest replica has in flight."""
        self.chosen: list[int] = []

    async def run(self, arrivals: Iterator[tuple[float, int, int]]) -> float:
        """arrivals: when, at which gateway, among how many replicas. Returns the mean of `fullest`."""
        meets_s = 0.0
        for at_s, seat, among in arrivals:
            while meets_s <= at_s:
                self._pass(meets_s)
                for gateway in self.gateways:
                    await gateway.peers.meet()
                meets_s += EVERY_S
            self._pass(at_s)
            index, lease = self.gateways[seat].send(among)
            self.chosen.append(index)
            begins_s = max(at_s, self._prefill_ends_s[index])
            first_s = self._prefill_ends_s[index] = begins_s + PROMPT_TOKENS * self._s_per_token
            self._at(first_s, partial(lease.work.first_token, first_s))
            self._at(first_s + LASTS_S, lease.__exit__)
            counts = [sum(g.replicas[i].in_flight for g in self.gateways) for i in range(REPLICAS)]
            self.fullest.append(max(counts) / fmean(counts))
        self._pass(1e9)
        return fmean(self.fullest[len(self.fullest) // 4 :])

    def _at(self, at_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), event))

    def _pass(self, until_s: float) -> None:
        while self._events and self._events[0][0] <= until_s:
            at_s, _, event = heapq.heappop(self._events)
            self.time.now_s = at_s
            event()
        self.time.now_s = max(self.time.now_s, min(until_s, 1e8))


def uneven(seed: int, count: int = 600) -> Iterator[tuple[float, int, int]]:
    """The first gateway's requests may go to half of the replicas alone; the second one's to all."""
    rng, at_s = random.Random(seed), 0.0
    for _ in range(count):
        at_s += rng.expovariate(10.0)
        seat = rng.randrange(2)
        yield at_s, seat, REPLICAS if seat else REPLICAS // 2


def lockstep(seed: int, count: int = 300) -> Iterator[tuple[float, int, int]]:
    """Both get a request at the same instant, always."""
    rng, at_s = random.Random(seed), 0.0
    for _ in range(count):
        at_s += rng.expovariate(4.0)
        yield at_s, 0, REPLICAS
        yield at_s, 1, REPLICAS


@pytest.mark.parametrize("policy", ["marginal_latency", "least_requests"])
async def test_r06_what_one_gateway_has_in_flight_the_other_keeps_clear_of(policy: str) -> None:
    seeds = range(6)
    apart = [await World(POLICIES[policy], share=False).run(uneven(seed)) for seed in seeds]
    together = [await World(POLICIES[policy], share=True).run(uneven(seed)) for seed in seeds]
    assert fmean(together) < 1.25
    assert min(apart) > max(1.4, *together)


@pytest.mark.parametrize("policy", ["marginal_latency", "least_requests", "lmetric", "kv_cost"])
async def test_r06_gateways_that_decide_at_the_same_instant_do_not_follow_each_other(policy: str) -> None:
    for seed in range(3):
        assert await World(POLICIES[policy], share=True).run(lockstep(seed)) < 1.25


class Stubborn:
    """Takes the first of the best, so that two gateways with the same books always take the same one."""

    needs_prefix = False

    def choose(self, features: Features, replicas: Sequence[ReplicaLoad]) -> int:
        costs = [terms["cost"] for terms in self.terms(features, replicas)]
        return costs.index(min(costs))

    def terms(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[Mapping[str, float]]:
        return [{"cost": load.in_flight + load.others_in_flight + 4.0} for load in replicas]


async def test_r06_without_sight_of_each_other_jitter_keeps_two_of_one_mind_apart() -> None:
    for seed in range(3):
        assert await _met_at_one(jitter=False, seed=seed) > 0.95
        assert await _met_at_one(jitter=True, seed=seed) < 0.5


async def _met_at_one(*, jitter: bool, seed: int) -> float:
    """Share of the instants at which both gateways chose the same replica."""
    world = World(lambda rng: Stubborn(), share=False, jitter=jitter, s_per_token=0.0)
    await world.run(lockstep(seed))
    return fmean(one == other for one, other in zip(world.chosen[::2], world.chosen[1::2], strict=True))
