"""When which fault comes to which replica: random, the same for the same seed, and one replica is always well."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.e2e.chaos.faults import FAULTS
from tests.e2e.chaos.replica import Replica, Trouble, now_s

FAULT_S = (2.0, 10.0)
"""How long a fault lasts."""
WELL_S = (2.0, 8.0)
"""How long a replica is left alone between two faults."""


@dataclass(frozen=True, slots=True)
class Planned:
    """at_s: since the beginning of the chaos."""

    at_s: float
    replica: int
    kind: str
    lasts_s: float

    def __str__(self) -> str:
        return f"{self.at_s:6.1f} s  replica {self.replica}  {self.kind} for {self.lasts_s:.1f} s"


class Schedule:
    """Faults for some replicas, each kind in its turn.

    settle_s: a replica counts as well so long after its fault has gone.
    """

    def __init__(self, replicas: Sequence[Replica], seed: int, settle_s: float) -> None:
        self._replicas = replicas
        self._settle_s = settle_s
        self._rng = random.Random(f"{seed}/schedule")
        self._deck = _deck(self._rng)
        self._permits = asyncio.Semaphore(len(replicas) - 1)
        """Keep the last well replica from harm, however long others take to recover."""
        self.troubles: list[Trouble] = []

    def plan(self, duration_s: float) -> list[Planned]:
        """Faults for the next `duration_s`, in order."""
        rng = self._rng
        planned: list[Planned] = []
        next_s = [rng.uniform(0.0, WELL_S[1]) for _ in self._replicas]
        while True:
            at_s = min(next_s)
            if at_s > duration_s - FAULT_S[0]:
                return planned
            replica = next_s.index(at_s)
            lasts_s = min(rng.uniform(*FAULT_S), duration_s - at_s)
            planned.append(Planned(at_s, replica, next(self._deck), lasts_s))
            next_s[replica] = at_s + lasts_s + self._settle_s + rng.uniform(*WELL_S)

    async def run(self, planned: Sequence[Planned]) -> None:
        """Bring these faults; then wait until every replica is well."""
        began_s = now_s()
        async with asyncio.TaskGroup() as group:
            for replica in self._replicas:
                group.create_task(self._lane(replica, began_s, [p for p in planned if p.replica == replica.number]))

    async def _lane(self, replica: Replica, began_s: float, planned: Sequence[Planned]) -> None:
        rng = random.Random(f"{self._rng.random()}")
        for one in planned:
            await asyncio.sleep(began_s + one.at_s - now_s())
            async with self._permits:
                trouble = Trouble(one.kind, replica.number, now_s())
                self.troubles.append(trouble)
                async with FAULTS[one.kind](replica, rng):
                    await asyncio.sleep(one.lasts_s)
                await replica.heal()
                trouble.ended_s = now_s() + self._settle_s
                await asyncio.sleep(self._settle_s)


def _deck(rng: random.Random) -> Iterator[str]:
    """Every kind once, in random order, again and again."""
    kinds = list(FAULTS)
    while True:
        rng.shuffle(kinds)
        yield from kinds
