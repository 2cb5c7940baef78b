"""The gateway's own ledger of what each replica is doing: the only truth that routing depends on (R07)."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from engines.base import Engine
from router.breaker import Breaker
from router.load import ReplicaLoad, Work
from router.prefix import Slot

if TYPE_CHECKING:
    from gateway.kv_watch import KvWatch
    from gateway.purse import Bill

LEAST_SHARE = 0.1
"""What a replica that starts slowly gets of the traffic at first."""


class Ramp:
    """A slow start. Its share of a full replica's load grows evenly from `LEAST_SHARE` to 1."""

    __slots__ = ("_began_s", "_length_s")

    def __init__(self, began_s: float, length_s: float) -> None:
        self._began_s = began_s
        self._length_s = length_s

    def share(self, now_s: float) -> float:
        grown = (now_s - self._began_s) / self._length_s
        return min(1.0, LEAST_SHARE + (1.0 - LEAST_SHARE) * grown)


@dataclass(slots=True, eq=False)
class Replica:
    """One engine process or endpoint. Policies see its `load`.

    served_before: what `served` began at. A newcomer begins level with its peers: policies that look at `served` would
                   send it everything until it had caught up.
    rests_until_s: the engine asked not to be sent anything before this instant.
    busy_until_s:  it was full a moment ago: others are asked first until this instant.
    last_error:    what last went wrong, for people.
    on_idle:       called when its last request ends; set while it drains.
    slot:          its place in the index of prefixes. watch: hears what it tells of its KV cache.
    """

    name: str
    pool: str
    site: str
    kind: str
    engine: Engine
    max_in_flight: int | None = None
    breaker: Breaker = field(default_factory=Breaker)
    rests_until_s: float = 0.0
    busy_until_s: float = 0.0
    url: str = ""
    served_before: int = 0
    last_error: str = ""
    ramp: Ramp | None = None
    on_idle: Callable[[], None] | None = None
    slot: Slot | None = None
    watch: KvWatch | None = None
    load: ReplicaLoad = field(init=False)

    def __post_init__(self) -> None:
        self.load = ReplicaLoad(self.name)

    def __repr__(self) -> str:
        return f"<Replica {self.name} in_flight={self.in_flight} served={self.served} {self.breaker!r}>"

    @property
    def in_flight(self) -> int:
        """Requests sent and not yet answered to the end."""
        return self.load.in_flight

    @property
    def served(self) -> int:
        """Requests ever sent."""
        return self.load.served

    @property
    def full(self) -> bool:
        return self.max_in_flight is not None and self.load.in_flight >= self.max_in_flight

    def lease(
        self,
        now_s: float,
        prompt_tokens: int = 0,
        cached_tokens: int = 0,
        output_tokens: float = 0.0,
        *,
        streamed: bool = True,
    ) -> Lease:
        """A place for one request; its figures as `Work` has them."""
        return Lease(self, self.load.begin(prompt_tokens, cached_tokens, output_tokens, now_s, streamed=streamed))


class Lease:
    """One request's place at a replica, given back exactly once when its `with` block is left.

    work:  its entry in the replica's books.
    probe: whether the request is to find out if the replica is back.
    """

    __slots__ = ("_held", "bill", "probe", "replica", "work")

    def __init__(self, replica: Replica, work: Work) -> None:
        self.replica = replica
        self.work = work
        self._held = True
        self.bill: Bill | None = None
        self.probe = replica.breaker.sent()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.give_back()

    def give_back(self) -> None:
        """Idempotent."""
        if not self._held:
            return
        self._held = False
        replica = self.replica
        self.work.leave()
        if replica.on_idle is not None and not replica.in_flight:
            replica.on_idle()


class Nobody(enum.Enum):
    """In place of a lease: there is nobody to wait for."""

    NOBODY = 0


NOBODY = Nobody.NOBODY


def admitted(replicas: list[Replica], now_s: float, rng: random.Random) -> list[Replica]:
    """Those of `replicas` that may be chosen among, now that some may be starting slowly.

    A slow starter may have its share of what the least busy of the others has, and the fraction that remains is drawn:
    so it gets little when all are idle, and little when all are busy. Where all are new, none has to be spared.
    """
    for replica in replicas:
        if replica.ramp is not None:
            return _admitted(replicas, now_s, rng)
    return replicas


def _admitted(replicas: list[Replica], now_s: float, rng: random.Random) -> list[Replica]:
    shares = [1.0 if r.ramp is None else r.ramp.share(now_s) for r in replicas]
    grown = [r for r, share in zip(replicas, shares, strict=True) if share >= 1.0]
    if not grown:
        return replicas
    for replica in grown:
        replica.ramp = None
    level = 1 + min(r.in_flight for r in grown)
    young = [
        r
        for r, share in zip(replicas, shares, strict=True)
        if share < 1.0 and share * level - r.in_flight > rng.random()
    ]
    return grown + young
