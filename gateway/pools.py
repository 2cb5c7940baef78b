"""Pools as they are at this moment: replicas come and go while requests run."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.replicas import Replica


@dataclass(slots=True, eq=False)
class Pool:
    """The replicas of one variant at one site. `replicas` is replaced as a whole, never changed."""

    name: str
    site: str = "on-premise"
    replicas: tuple[Replica, ...] = field(default=())

    def __repr__(self) -> str:
        return f"<Pool {self.name} replicas={len(self.replicas)}>"
