"""Health of replicas of which traffic says nothing: those that idle, and those whose breaker keeps traffic away."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from gateway.clock import Clock
from gateway.config.pool_options import ProbeOptions
from gateway.pools import Pool
from gateway.replicas import Replica
from router.breaker import BreakerState

GIVE_UP_AFTER = 3
"""Probes in vain after which an idle replica is taken to have no health path, and is left alone."""


@dataclass(slots=True)
class _Seen:
    """What was known of a replica at the last look.

    answered: its health path has said yes at some time; in_vain: probes before that; asked: a probe is out.
    """

    served: int
    since_s: float
    answered: bool = False
    in_vain: int = 0
    asked: bool = False


class Prober:
    """Traffic has the first word, probes the second.

    A probe that is answered lets one request find out whether a broken replica is back, before its time. One that fails
    counts like a failed request, but only at a replica that has no traffic and whose health path has worked before:
    some servers have none.
    """

    def __init__(self, pool: Pool, options: ProbeOptions, clock: Clock, rng: random.Random) -> None:
        self._pool = pool
        self._idle_s = options.idle_s
        self._every_s = options.every_s
        self._clock = clock
        self._rng = rng
        self._seen: dict[Replica, _Seen] = {}

    async def run(self) -> None:
        """Does not return, unless there is nothing to do."""
        async with asyncio.TaskGroup() as probes:
            while self._every_s is not None:
                await self._clock.sleep(self._every_s * (0.5 + self._rng.random()))
                self.probe(probes)

    def probe(self, probes: asyncio.TaskGroup) -> None:
        """Begin to ask all for whom it is time. One that hangs keeps nobody else waiting, and is not asked twice."""
        self._look()
        now_s = self._clock.monotonic()
        for replica, seen in self._seen.items():
            if not seen.asked and self._is_due(replica, seen, now_s):
                seen.asked = True
                probes.create_task(self._ask(replica, seen), name=f"probe of {replica.name}")

    def _look(self) -> None:
        """Note who had traffic since the last look, who is new and who is gone."""
        now_s = self._clock.monotonic()
        seen = {replica: self._seen.get(replica) or _Seen(replica.served, now_s) for replica in self._pool.replicas}
        for replica, one in seen.items():
            if replica.in_flight or replica.served != one.served:
                one.served, one.since_s = replica.served, now_s
        self._seen = seen

    def _is_due(self, replica: Replica, seen: _Seen, now_s: float) -> bool:
        if replica.breaker.state(now_s) is not BreakerState.CLOSED:
            return True
        return now_s - seen.since_s >= self._idle_s and (seen.answered or seen.in_vain < GIVE_UP_AFTER)

    async def _ask(self, replica: Replica, seen: _Seen) -> None:
        well = await replica.engine.healthy()
        seen.asked = False
        now_s = self._clock.monotonic()
        if well:
            seen.answered = True
            replica.breaker.seems_well(now_s)
        elif not seen.answered:
            seen.in_vain += 1
        elif replica.served == seen.served and replica.breaker.allows(now_s):
            replica.last_error = "its health path does not answer"
            replica.breaker.failed(now_s, probe=False)
