"""Who goes next when a place frees up: by class, then fair shares of tenants, then deadlines.

Start-time fair queueing (Goyal et al., 1996) over tokens, as the virtual token counter has it for language models
(Sheng et al., 2024): each tenant has a virtual time that advances by what its requests cost, over its weight; the
tenant that is least ahead goes next. Pure: no clock, no I/O.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, Protocol, TypeVar

from router.lazy_heap import LazyHeap

OUTPUT_COST = 4.0
"""What a token of the answer costs, in uncached prompt tokens."""
LOOK_AHEAD = 64
"""Entries that `pop` looks at for one that fits."""
LOOK_AHEAD_TENANT = 8
"""Of one tenant in one class, so that nobody's entries hide those of others."""
CREDIT = 10_000.0
"""What a tenant that asked for less than its share may be served ahead of others when it comes back: a long request or
a few short ones. Without it, who asks little waits until its own last request is evened out, again and again."""
RESERVE = 1 / 32
"""Share of all places that is best left to entries that are `behind`: else a tenant that asks little waits each time
for somebody's request to end, though it is next. So small that it costs little throughput; of few places it is none."""
MOST_IDLE = 1024
"""Tenants without an entry that are remembered for what they are ahead."""

T = TypeVar("T")

_Turn = tuple[float, float]
"""Of an entry within its tenant: where it starts, its deadline."""
_FIRST: _Turn = (-math.inf, -math.inf)


def charge(uncached_tokens: float, output_tokens: float) -> float:
    """What a request costs its tenant."""
    return uncached_tokens + OUTPUT_COST * output_tokens


class Entry(Generic[T]):
    """One request that waits.

    priority:   its class; lower goes first, always.
    cost:       what its tenant is charged for it (`charge`), as expected; after `settle`, what it really was.
    deadline_s: within its tenant the earliest goes first; entries without one go after those that have one.
    flow:       of its tenant: flows of one tenant take turns, whatever the deadlines; empty: one flow like the others.
    since_s:    when it was put in. band: the class that it has risen to.
    """

    __slots__ = ("_flow", "band", "cost", "deadline_s", "flow", "payload", "priority", "since_s", "start", "tenant")

    def __init__(
        self,
        tenant: str,
        cost: float,
        payload: T,
        priority: int = 0,
        deadline_s: float = math.inf,
        flow: str = "",
    ) -> None:
        self.tenant = tenant
        self.cost = cost
        self.payload = payload
        self.priority = priority
        self.deadline_s = deadline_s
        self.flow = flow
        self.start = 0.0
        """Its turn among its tenant's flows, in what they cost."""
        self.since_s = 0.0
        self.band = priority
        self._flow: _Flow[T] | None = None

    @property
    def behind(self) -> bool:
        """Whether its tenant has had less than its share of late: `RESERVE` is for such."""
        return self._flow is not None and self._flow.ahead < self._flow.band.present

    def __repr__(self) -> str:
        risen = f" band={self.band}" if self.band != self.priority else ""
        return f"<Entry {self.tenant} priority={self.priority}{risen} cost={self.cost:g}>"


class _Flow(Generic[T]):
    """The entries of one tenant in one class. `ahead`: its virtual time.

    The tenant's own flows take turns by start-time fair queueing as well: each entry starts where the one before it in
    its flow ends, and no earlier than the flows that wait have got to. Nothing of that is kept while there are no named
    ones.
    """

    __slots__ = ("ahead", "band", "cost", "ends", "entries", "latest", "names", "present", "weight")

    def __init__(self, band: _Band[T], weight: float) -> None:
        self.band = band
        self.weight = weight
        self.ahead = 0.0
        self.entries: LazyHeap[Entry[T], _Turn] = LazyHeap()
        self.cost = 0.0
        """Of all its entries."""
        self.latest = _FIRST
        """No entry goes later."""
        self.present = 0.0
        """How far its flows have got: by what was served, shared out among those that wait."""
        self.ends: dict[str, float] = {}
        """Where the last entry of each of its flows ends."""
        self.names: Counter[str] = Counter()
        """Entries by flow, as soon as one has a name."""

    def join(self) -> None:
        """It was idle: that earns it the credit and no more."""
        self.ahead = max(self.ahead, self.band.present - self.band.credit / self.weight)

    def add(self, entry: Entry[T]) -> None:
        if not self.entries:
            self.join()
            self.latest, self.present = _FIRST, 0.0
            self.ends.clear()
        entry.start = self._start(entry)
        key = (entry.start, entry.deadline_s)
        self.entries.put(entry, key)
        self.cost += entry.cost
        self.latest = max(self.latest, key)
        self.reorder()

    def _start(self, entry: Entry[T]) -> float:
        ends = self.ends
        if not ends:
            if not entry.flow:
                return self.present
            self.names = Counter({"": len(self.entries)} if self.entries else ())
        if len(ends) > 2 * len(self.names) + MOST_IDLE:
            self.ends = ends = {name: end for name, end in ends.items() if end > self.present}
        self.names[entry.flow] += 1
        start = max(self.present, ends.get(entry.flow, self.present))
        ends[entry.flow] = start + entry.cost
        return start

    def advance(self, entry: Entry[T]) -> None:
        """It is served. Time goes on for all flows, or one that never ceases to change its name would go first."""
        if self.ends:
            self.present = max(entry.start, self.present + entry.cost / len(self.names))

    def last(self) -> Entry[T]:
        """Who leaves when one has to: the last one of the flow that has most entries."""
        return self._most()[1] if self.ends else self.entries.last_put()

    def worst(self, newcomer: Entry[T]) -> Entry[T]:
        """The same, if the newcomer is of the same tenant: it leaves itself if its own flow has most."""
        if not self.ends:
            return newcomer
        most, last = self._most()
        return newcomer if self.names[newcomer.flow] + 1 >= most else last

    def _most(self) -> tuple[int, Entry[T]]:
        """How many entries a flow has at most, and its last one."""
        name, most = self.names.most_common(1)[0]
        return most, [entry for entry in self.entries if entry.flow == name][-1]

    def take(self, entry: Entry[T]) -> None:
        self.entries.remove(entry)
        if self.ends:
            self.names[entry.flow] -= 1
            if not self.names[entry.flow]:
                del self.names[entry.flow]
        self.cost = self.cost - entry.cost if self.entries else 0.0  # rounding must not add up
        self.reorder()

    def spend(self, cost: float) -> None:
        self.ahead += cost / self.weight
        self.reorder()

    def reorder(self) -> None:
        self.band.reorder(self)


class _Band(Generic[T]):
    """One class. `present`: its virtual time, that of the tenant that was least ahead when an entry was last served."""

    __slots__ = ("by_length", "credit", "flows", "order", "present", "priority", "waiting")

    def __init__(self, priority: int, credit: float) -> None:
        self.credit = credit
        self.priority = priority
        self.present = 0.0
        self.waiting = 0
        self.flows: dict[str, _Flow[T]] = {}
        self.order: LazyHeap[_Flow[T], float] = LazyHeap()
        self.by_length: LazyHeap[_Flow[T], float] = LazyHeap()

    def __lt__(self, other: _Band[T]) -> bool:
        return self.priority < other.priority

    def reorder(self, flow: _Flow[T]) -> None:
        if flow.entries:
            self.order.put(flow, flow.ahead)
            self.by_length.put(flow, -len(flow.entries) / flow.weight)
        elif flow in self.order:
            self.order.remove(flow)
            self.by_length.remove(flow)

    def flow(self, tenant: str, weight: float) -> _Flow[T]:
        flow = self.flows.get(tenant)
        if flow is None:
            if len(self.flows) >= 2 * len(self.order) + MOST_IDLE:
                self._forget()
            flow = self.flows[tenant] = _Flow(self, weight)
        elif flow.weight != weight:
            flow.weight = weight
            self.reorder(flow)
        return flow

    def _forget(self) -> None:
        """Those that are idle and not ahead; if that does not help, all that are idle."""
        kept = {name: f for name, f in self.flows.items() if f.entries or f.ahead > self.present}
        if len(kept) >= 2 * len(self.order) + MOST_IDLE:
            kept = {name: f for name, f in kept.items() if f.entries}
        self.flows = kept


class Weights(Protocol):
    """A mapping, or whatever else knows the share of a tenant."""

    def get(self, tenant: str, otherwise: float, /) -> float: ...


class FairQueue(Generic[T]):
    """At most `limit` entries, in the order in which they are to be served.

    1. The class with the lowest number. An entry rises one class for each `age_s` that it has waited, but never above
       the best class that somebody who waits was given.
    2. In a class, the tenant that is least ahead of its share. One that was idle begins level with the others, less the
       credit, and owes what it was served last. Between two tenants that both have entries, what they were served,
       each over its weight, differs by at most two entries' cost, and once by the credit.
    3. Of a tenant, its flows take turns as tenants do, all with the same share. Of a flow, the earliest deadline; where
       flows have names, whichever came first.

    Args:
        limit: entries at most; at 0 nothing ever waits.
        age_s: see above.
        weights: what each tenant's share is, relative to 1.0 for those that are not named. May change at any time.
        credit: see above; at 0.0 idling earns nothing.
    """

    def __init__(self, limit: int, age_s: float = 10.0, weights: Weights | None = None, credit: float = CREDIT) -> None:
        self.limit = limit
        self._age_s = age_s
        self._credit = credit
        self._weights = weights or {}
        self._bands: list[_Band[T]] = []
        self._by_priority: dict[int, _Band[T]] = {}
        self._given: Counter[int] = Counter()
        """Entries by the class that they were given."""
        self._rising: LazyHeap[Entry[T], float] = LazyHeap()
        """Entries by when they rise next. Every entry that waits is in it."""

    def __len__(self) -> int:
        return len(self._rising)

    def __contains__(self, entry: Entry[T]) -> bool:
        return entry in self._rising

    def __iter__(self) -> Iterator[Entry[T]]:
        """In no order."""
        return iter(self._rising)

    def __repr__(self) -> str:
        bands = "".join(f" {band.priority}:{band.waiting}" for band in self._bands if band.waiting)
        return f"<FairQueue {len(self)}/{self.limit}{bands}>"

    def push(self, entry: Entry[T], now_s: float) -> Entry[T] | None:
        """Put an entry in. Returns who is turned away as there is no room: nobody, `entry`, or another one that leaves.

        `entry` takes the place of another if that has a worse class, or the same class and a tenant that has more
        entries for its weight, itself not counted. Of all such it is the last one of whoever has the most; of a tenant
        with several flows, of the flow that has the most.
        """
        self._age(now_s)
        shed = self._worst(entry) if len(self) >= self.limit else None
        if shed is entry:
            return entry
        if shed is not None:
            self._drop(shed)
        entry.since_s, entry.band = now_s, entry.priority
        self._given[entry.priority] += 1
        self._rising.put(entry, now_s + self._age_s)
        self._add(entry)
        return shed

    def pass_by(self, entry: Entry[T], now_s: float) -> None:
        """Charge for an entry that need not wait."""
        entry.since_s, entry.band = now_s, entry.priority
        flow = entry._flow = self._flow(entry)
        flow.join()
        self._serve(entry)

    def pop(self, now_s: float, fits: Callable[[Entry[T]], bool | None] | None = None) -> Entry[T] | None:
        """Take out the first entry that `fits`, and charge its tenant; None: none of the first ones fits.

        `fits` is asked of each entry in turn until it says yes, and of `LOOK_AHEAD` at most. It may keep what it found:
        the entry for which it says yes is the one that is returned. None from it: neither this one nor any other fits.
        """
        self._age(now_s)
        for entry in islice(self._in_order(), LOOK_AHEAD):
            answer = fits is None or fits(entry)
            if answer is None:
                break
            if answer:
                self._serve(entry)
                self._drop(entry)
                return entry
        return None

    def remove(self, entry: Entry[T]) -> bool:
        """Take out an entry that gives up, free of charge. False: it is not there."""
        if entry not in self._rising:
            return False
        self._drop(entry)
        return True

    def settle(self, entry: Entry[T], cost: float) -> None:
        """An entry that was popped or passed by cost `cost` in the end; 0.0 if it was never served."""
        flow = entry._flow
        assert flow is not None and entry not in self._rising, "only what has left is settled"
        more, entry.cost = cost - entry.cost, cost
        flow.spend(more)

    def position(self, entry: Entry[T]) -> int:
        """Entries that go before this one, if none comes and all fit: exact where all cost the same, else about so.

        Raises:
            KeyError: it is not there.
        """
        if entry not in self._rising:
            raise KeyError(entry)
        flow = entry._flow
        assert flow is not None
        count, cost = _before(flow, entry)
        start = flow.ahead + cost / flow.weight
        seen = False
        for other in flow.band.order:
            if other is flow:
                seen = True
                continue
            turns = (start - other.ahead) * other.weight / max(other.cost / len(other.entries), 1e-9)
            wins_tie = other.ahead > flow.ahead or (other.ahead == flow.ahead and not seen)
            goes = math.floor(turns + 1e-9) + 1 if wins_tie else math.ceil(turns - 1e-9)
            count += min(max(goes, 0), len(other.entries))
        return count + sum(band.waiting for band in self._bands if band.priority < entry.band)

    def eta_s(self, entry: Entry[T], service_rate: float) -> float:
        """Seconds until it goes, if `service_rate` entries go each second."""
        return (self.position(entry) + 1) / service_rate if service_rate > 0.0 else math.inf

    def _in_order(self) -> Iterator[Entry[T]]:
        for band in self._bands:
            for flow in band.order.in_order():
                yield from islice(flow.entries.in_order(), LOOK_AHEAD_TENANT)

    def _age(self, now_s: float) -> None:
        due = self._rising.first()
        while due is not None and due[0] <= now_s:
            due_s, entry = due
            rises = entry.band > min(self._given)
            self._rising.put(entry, (due_s if rises else now_s) + self._age_s)
            if rises:
                self._leave(entry)
                entry.band -= 1
                self._add(entry)
            due = self._rising.first()

    def _worst(self, newcomer: Entry[T]) -> Entry[T]:
        """Who is to be turned away."""
        band = next((band for band in reversed(self._bands) if band.waiting), None)
        if band is None or newcomer.priority > band.priority:
            return newcomer
        first = band.by_length.first()
        assert first is not None
        most, longest = -first[0], first[1]
        if newcomer.priority == band.priority:
            own = band.flows.get(newcomer.tenant)
            entries = 1 + (len(own.entries) if own is not None else 0)
            if entries / self._weight(newcomer.tenant) >= most:
                return newcomer if own is None or not own.entries else own.worst(newcomer)
        return longest.last()

    def _serve(self, entry: Entry[T]) -> None:
        """Charge for it."""
        flow = entry._flow
        assert flow is not None
        band = flow.band
        first = band.order.first()
        band.present = max(band.present, flow.ahead if first is None else first[0])
        if entry in flow.entries:
            flow.advance(entry)
        flow.spend(entry.cost)

    def _drop(self, entry: Entry[T]) -> None:
        self._leave(entry)
        self._rising.remove(entry)
        self._given[entry.priority] -= 1
        if not self._given[entry.priority]:
            del self._given[entry.priority]

    def _add(self, entry: Entry[T]) -> None:
        flow = entry._flow = self._flow(entry)
        flow.add(entry)
        flow.band.waiting += 1

    def _leave(self, entry: Entry[T]) -> None:
        assert entry._flow is not None
        entry._flow.take(entry)
        entry._flow.band.waiting -= 1

    def _flow(self, entry: Entry[T]) -> _Flow[T]:
        band = self._by_priority.get(entry.band)
        if band is None:
            band = self._by_priority[entry.band] = _Band(entry.band, self._credit)
            insort(self._bands, band)
        return band.flow(entry.tenant, self._weight(entry.tenant))

    def _weight(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)


def _before(flow: _Flow[T], entry: Entry[T]) -> tuple[int, float]:
    """How many entries of its own tenant go before this one, and what they cost."""
    entries = flow.entries
    if (entry.start, entry.deadline_s) >= flow.latest and entries.last_put() is entry:
        return len(entries) - 1, flow.cost - entry.cost
    count, cost = 0, 0.0
    for other in entries.in_order():
        if other is entry:
            break
        count += 1
        cost += other.cost
    return count, cost
