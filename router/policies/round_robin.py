"""Each replica in turn, by name, so that a replica that comes or goes does not shift the turn of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router.load import ReplicaLoad
from router.types import Features


class RoundRobin:
    needs_prefix = False

    def __init__(self) -> None:
        self._last = ""

    def choose(self, features: Features, replicas: Sequence[ReplicaLoad]) -> int:
        chosen = self._order(replicas)[0]
        self._last = replicas[chosen].name
        return chosen

    def terms(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[Mapping[str, float]]:
        turns = self._order(replicas)
        return [{"cost": float(turns.index(i))} for i in range(len(replicas))]

    def _order(self, replicas: Sequence[ReplicaLoad]) -> list[int]:
        """The candidates, the one whose turn it is first."""
        last = self._last
        return sorted(range(len(replicas)), key=lambda i: (replicas[i].name <= last, replicas[i].name))
