"""Pools as they are at this moment: replicas come and go while requests run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.replicas import Ramp, Replica

if TYPE_CHECKING:
    from gateway.waking import Waker


@dataclass(slots=True, eq=False)
class Pool:
    """The replicas of one variant at one site. The tuples are replaced as a whole, never changed.

    replicas: those that requests may go to.
    warming:  those that are to answer a warm-up request first.
    draining: those that are gone from the pool and still have requests in flight.
    waker:    wakes the pool if it may sleep.
    tells:    whether any replica may tell of its KV cache.
    """

    name: str
    site: str = "on-premise"
    replicas: tuple[Replica, ...] = field(default=())
    warming: tuple[Replica, ...] = field(default=())
    draining: tuple[Replica, ...] = field(default=())
    waker: Waker | None = None
    tells: bool = False

    def __repr__(self) -> str:
        more = "".join(
            f" {word}={len(part)}" for word, part in (("warming", self.warming), ("draining", self.draining)) if part
        )
        return f"<Pool {self.name} replicas={len(self.replicas)}{more}>"

    @property
    def everyone(self) -> tuple[Replica, ...]:
        """All whose engines are open."""
        return (*self.replicas, *self.warming, *self.draining)

    def free_name(self, taken: Iterable[str] = ()) -> str:
        """A name for a newcomer: the lowest number that is free, so that names, and metrics with them, stay few."""
        used = {replica.name for replica in self.everyone}.union(taken)
        number = 0
        while f"{self.name}-{number}" in used:
            number += 1
        return f"{self.name}-{number}"

    def warm(self, replica: Replica) -> None:
        """Keep it from requests until it is admitted."""
        self.replicas = _without(self.replicas, replica)
        self.warming = (*self.warming, replica)

    def admit(self, replica: Replica, ramp: Ramp | None = None) -> None:
        """Let requests go to it, level with its peers. `ramp`: slowly at first, if there are others."""
        self.warming = _without(self.warming, replica)
        others = self.replicas
        if others:
            replica.load.level_with([r.load for r in others])
            replica.served_before = replica.served
            replica.ramp = ramp
        self.replicas = (*others, replica)

    def drain(self, replica: Replica) -> bool:
        """Keep it from new requests. Returns whether it has any to finish; if not it is gone."""
        self.replicas = _without(self.replicas, replica)
        self.warming = _without(self.warming, replica)
        if replica.in_flight:
            self.draining = (*self.draining, replica)
            return True
        return False

    def drained(self, replica: Replica) -> None:
        self.draining = _without(self.draining, replica)
        replica.on_idle = None

    def take_back(self, replica: Replica) -> None:
        """It drained, and was named anew: it is what it was."""
        self.drained(replica)
        self.replicas = (*self.replicas, replica)


def _without(replicas: tuple[Replica, ...], replica: Replica) -> tuple[Replica, ...]:
    return tuple(one for one in replicas if one is not replica)
