"""What people and programs are told of pools: by one worker, and summed over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal

from pydantic import BaseModel

from gateway.pool_keeper import PoolKeeper
from gateway.pools import Pool
from gateway.replicas import Replica
from router.breaker import BreakerState

State = Literal["up", "warming", "half_open", "open", "asleep", "draining"]
"""up: gets traffic; warming: is to answer a warm-up request first; open, half_open: its breaker keeps traffic away, but
for a probe; asleep: the same in a pool that scales to zero; draining: is gone from the pool, and finishes."""

_WORST: tuple[State, ...] = ("open", "asleep", "half_open", "warming", "draining", "up")
_OF_BREAKER: dict[BreakerState, State] = {
    BreakerState.CLOSED: "up",
    BreakerState.OPEN: "open",
    BreakerState.HALF_OPEN: "half_open",
}


class ReplicaReport(BaseModel):
    name: str
    url: str
    state: State
    """The worst that any worker sees."""
    states: dict[State, int]
    """How many workers see it so: each has its own breakers."""
    in_flight: int
    served: int
    last_error: str


class PoolReport(BaseModel):
    name: str
    site: str
    source: str
    """Where its replicas are found: `static`, or what is asked for them."""
    error: str
    """Why the source cannot be asked; empty if it can, or need not be."""
    held: int
    """Requests that wait for the pool to wake."""
    waking: bool
    replicas: list[ReplicaReport]


class PoolList(BaseModel):
    workers: list[int]
    """The workers whose numbers are in this sum."""
    pools: list[PoolReport]


def report(keepers: Iterable[PoolKeeper], worker_id: int, now_s: float, clean: Callable[[str], str]) -> PoolList:
    """What one worker sees. `clean` takes secrets out of what engines have said."""
    return PoolList(workers=[worker_id], pools=[_pool(keeper, now_s, clean) for keeper in keepers])


def states(pool: Pool, now_s: float) -> list[tuple[Replica, State]]:
    """Every replica of a pool, and how it is."""
    told: list[tuple[Replica, State]] = [
        (replica, _OF_BREAKER[replica.breaker.state(now_s)]) for replica in pool.replicas
    ]
    if pool.waker is not None:
        told = [(replica, state if state == "up" else "asleep") for replica, state in told]
    told += [(replica, "warming") for replica in pool.warming]
    told += [(replica, "draining") for replica in pool.draining]
    return told


def _pool(keeper: PoolKeeper, now_s: float, clean: Callable[[str], str]) -> PoolReport:
    pool, waker = keeper.pool, keeper.pool.waker
    told = sorted(states(pool, now_s), key=lambda one: _order(one[0].name))
    return PoolReport(
        name=pool.name,
        site=pool.site,
        source=keeper.discovery.source if keeper.discovery is not None else "static",
        error=clean(keeper.error),
        held=waker.held if waker is not None else 0,
        waking=waker is not None and waker.waking,
        replicas=[_replica(replica, state, clean) for replica, state in told],
    )


def _replica(replica: Replica, state: State, clean: Callable[[str], str]) -> ReplicaReport:
    return ReplicaReport(
        name=replica.name,
        url=without_credentials(replica.url),
        state=state,
        states={state: 1},
        in_flight=replica.in_flight,
        served=replica.served - replica.served_before,
        last_error=clean(replica.last_error),
    )


def merge_reports(reports: Iterable[PoolList]) -> PoolList:
    """The sum of what several workers see. A replica is known by its pool and URL."""
    total = PoolList(workers=[], pools=[])
    pools: dict[str, PoolReport] = {}
    for one in reports:
        total.workers += one.workers
        for pool in one.pools:
            if pool.name in pools:
                _add(pools[pool.name], pool)
            else:
                pools[pool.name] = pool
    total.workers.sort()
    total.pools = list(pools.values())
    return total


def _add(total: PoolReport, more: PoolReport) -> None:
    total.error = total.error or more.error
    total.held += more.held
    total.waking |= more.waking
    known = {replica.url: replica for replica in total.replicas}
    for replica in more.replicas:
        one = known.get(replica.url)
        if one is None:
            total.replicas.append(replica)
            continue
        one.states = dict(Counter(one.states) + Counter(replica.states))
        one.state = min(one.states, key=_WORST.index)
        one.in_flight += replica.in_flight
        one.served += replica.served
        one.last_error = one.last_error or replica.last_error


def without_credentials(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _order(name: str) -> tuple[str, int]:
    """`pool-10` after `pool-9`."""
    stem, _, number = name.rpartition("-")
    return (stem, int(number)) if number.isdecimal() else (name, 0)
