"""Each replica in turn, by name, so that a replica that comes or goes does not shift the turn of the others."""

from __future__ import annotations

from collections.abc import Sequence

from router.types import Features, ReplicaView


class RoundRobin:
    def __init__(self) -> None:
        self._last = ""

    def choose(self, features: Features, replicas: Sequence[ReplicaView]) -> int:
        order = sorted(range(len(replicas)), key=lambda i: replicas[i].name)
        chosen = next((i for i in order if replicas[i].name > self._last), order[0])
        self._last = replicas[chosen].name
        return chosen
