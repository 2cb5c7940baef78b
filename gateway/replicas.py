"""The gateway's own ledger of what each replica is doing: the only truth that routing depends on (R07)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from engines.base import Engine
from router.breaker import Breaker


@dataclass(slots=True, eq=False)
class Replica:
    """One engine process or endpoint. Seen by policies as `ReplicaView`."""

    name: str
    pool: str
    site: str
    kind: str
    engine: Engine
    max_in_flight: int | None = None
    breaker: Breaker = field(default_factory=Breaker)
    in_flight: int = 0
    served: int = 0

    def __repr__(self) -> str:
        return f"<Replica {self.name} in_flight={self.in_flight} served={self.served} {self.breaker!r}>"

    @property
    def full(self) -> bool:
        return self.max_in_flight is not None and self.in_flight >= self.max_in_flight

    def lease(self) -> Lease:
        return Lease(self)


class Lease:
    """One request's place at a replica, given back exactly once when its `with` block is left.

    probe: whether the request is to find out if the replica is back.
    """

    __slots__ = ("_held", "probe", "replica")

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self._held = True
        replica.in_flight += 1
        replica.served += 1
        self.probe = replica.breaker.sent()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._held:
            self._held = False
            self.replica.in_flight -= 1
