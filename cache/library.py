"""What a worker has in memory: entries, what finds them, and what their cohorts learned.

Only records change it, so workers that apply the same ones come to the same. Every time that matters comes in.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Final

import msgspec

from cache.entry import Added, Entry, Judged, Learned, Objected, Purged, Quarantined, Record, Selector, Used, Voted
from cache.eviction import Ranking, worth
from cache.held import CohortLike, Held, LibraryStats, Preview, Slot, size_of
from cache.planted import JudgeError, is_of_judge
from cache.semantics.seam import Bound, Look, Near
from cache.votes import Votes

if TYPE_CHECKING:
    from cache.index import Floats, Place
    from cache.signals import Signals

logger = logging.getLogger(__name__)

LARGEST_SHARE: Final = 4
"""One part in so many of all memory is the most that an entry may take."""
BARRED: Final = 65536
"""So many ids that were found to be wrong are remembered."""
PURGES: Final = 256
"""So many purges are remembered, for entries that are told late."""
SWEPT: Final = 1000
"""Entries dropped by a sweep: it must not hold up the worker. What is due is not found in the meantime."""
PURGED: Final = 500
"""Entries looked at for a purge in one slice of work."""
SLICE_S = 0.004
"""For which entries are put into the index in one slice: in a large one that takes ten times as long as in a small
one."""
OBJECTORS: Final = 2
"""So many tenants have to say that an answer is wrong which all of them share."""
TIDIED: Final = 100
"""Vectors taken out of each graph by a sweep."""


class Library:
    """max_bytes: of memory, for entries and their vectors. embedder: only its vectors are compared. me: this worker."""

    def __init__(
        self,
        make_cohort: Callable[[Bound], CohortLike],
        bound: Bound,
        *,
        max_bytes: int,
        embedder: str = "",
        read_signals: Callable[[str], Signals] | None = None,
        me: str = "",
    ) -> None:
        self._make_cohort = make_cohort
        self._bound = bound
        self._max_bytes = max_bytes
        self._embedder = embedder
        self._read_signals = read_signals
        self._me = me
        self._keys: dict[bytes, Slot] = {}
        self._ids: dict[str, Slot] = {}
        self._slots: dict[int, Slot] = {}
        self._places: dict[bytes, Place] = {}
        """By partition."""
        self._untidy: set[bytes] = set()
        self._next = 0
        self._ranking = Ranking(self._rank)
        self._ends: list[tuple[float, int]] = []
        self._barred: dict[str, None] = {}
        self._purges: deque[Purged] = deque(maxlen=PURGES)
        self._going: deque[tuple[Purged, int, deque[Slot]]] = deque()
        """Purges that are under way: each with the number from which on entries are newer, and who is still to be
        looked at."""
        self._unindexed: deque[Slot] = deque()
        self._used: dict[str, int] = {}
        self._stats = LibraryStats(max_bytes=max_bytes)
        self.cohorts: dict[str, CohortLike] = {}
        self.votes = Votes()
        self._judges: dict[str, JudgeError] = {}
        self.size_bytes = 0

    def __repr__(self) -> str:
        return f"<Library entries={len(self)} size_bytes={self.size_bytes}>"

    def __len__(self) -> int:
        return len(self._ids)

    def compare_by(self, embedder: str) -> None:
        """From now on questions are compared by its vectors. Entries that have such are found by them once `work` has
        come to them."""
        self._embedder = embedder
        self._unindexed = deque(slot for slot in self._slots.values() if not slot.indexed and slot.entry.vector)

    def work(self) -> bool:
        """A slice of what was put off because it would hold up the worker, a few milliseconds. False: nothing is left.
        What was purged but is still there is not found meanwhile."""
        ends_s = perf_counter() + SLICE_S
        while self._unindexed:
            slot = self._unindexed.popleft()
            if not slot.indexed and self._slots.get(slot.number) is slot:
                self._index(slot)
            if perf_counter() >= ends_s:
                break
        if self._going:
            self._purge_some()
        return bool(self._unindexed or self._going)

    def find(self, key: bytes, now: float) -> Entry | None:
        """The answer to the same question."""
        slot = self._keys.get(key)
        if slot is None or slot.entry.expires_at <= now or (self._going and self._is_gone(slot)):
            return None
        return slot.entry

    def near(self, partition: bytes, vector: bytes | Floats, k: int, now: float) -> list[Near]:
        """Up to `k` entries whose questions are nearest. vector: float16 bytes, or floats of unit length."""
        place = self._places.get(partition)
        if place is None:
            return []
        floats = _as_floats(vector)
        if len(floats) != place.fine.dimensions:
            return []
        found = []
        for number, cosine in place.fine.near(floats, k):
            slot = self._slots[number]
            if slot.entry.expires_at > now and not self._is_gone(slot):
                found.append(Near(slot.entry.id, slot.entry.text, cosine, self._signals(slot)))
        return found

    def populated(self, partition: bytes) -> bool:
        """Whether anything could be near."""
        return partition in self._places

    def nearest_first(self, partition: bytes, vector: bytes | Floats, now: float) -> float:
        """The best cosine among the vectors of the coarse stage; 1.0 where an entry has none. What had its time since
        the last sweep still counts: it only makes the answer higher."""
        place = self._places.get(partition)
        return place.nearest_first(_as_floats(vector)) if place is not None else 0.0

    def hit(self, entry_id: str, look: Look | None = None, *, audited: bool = False) -> None:
        """Its answer was served. look: because of it, for another question; audited: that will be compared."""
        if look is None:
            self._stats.exact_hits += 1
        else:
            self._stats.semantic_hits += 1
        slot = self._ids.get(entry_id)
        if slot is None:
            return
        slot.hits += 1
        slot.clock = self._ranking.clock
        self._used[entry_id] = self._used.get(entry_id, 0) + 1
        if look is not None:
            self.cohort(slot.entry.cohort).served(look, audited)

    def used(self, now: float) -> Used | None:
        """What this worker served since it was last asked, for the others; None: nothing."""
        if not self._used:
            return None
        used, self._used = self._used, {}
        return Used(used, now, self._me)

    def apply(self, record: Record) -> Record:
        """Adding, quarantining and purging the same again changes nothing. Returns what others should be told: of what
        is wrong, all that was withdrawn, as they may not know what was taken for the same answer."""
        match record:
            case Added(entry):
                self._add(entry)
            case Judged():
                self._judge(record)
            case Quarantined(ids):
                return msgspec.structs.replace(record, ids=self._quarantine(ids))
            case Objected(entry_id, tenant):
                self._object(entry_id, tenant)
            case Voted():
                self.votes.cast(record)
            case Purged():
                self._purge(record)
            case Used():
                self._use(record)
            case Learned(cohort, state) if is_of_judge(cohort):
                self.judge(cohort).restore(state)
            case Learned(cohort, state):
                self.cohort(cohort).restore(state)
        return record

    def sweep(self, now: float) -> None:
        """Drop what has had its time, and tidy up. To be called every second or so."""
        for _ in range(SWEPT):
            if not self._ends or self._ends[0][0] > now:
                break
            _, number = heapq.heappop(self._ends)
            slot = self._slots.get(number)
            if slot is not None:
                self._drop(slot)
                self._stats.expired += 1
        self.work()
        for partition in list(self._untidy):
            place = self._places.get(partition)
            if place is None or not place.tidy(TIDIED):
                self._untidy.discard(partition)

    def preview(self, selector: Selector) -> Preview:
        sizes = [slot.size_bytes for slot in self._selected(selector)]
        return Preview(len(sizes), sum(sizes))

    def held(self, entry_id: str) -> Held | None:
        slot = self._ids.get(entry_id)
        if slot is None or self._is_gone(slot):
            return None
        return Held(slot.entry, slot.hits, slot.confirmed, slot.contradicted, slot.size_bytes, slot.objectors)

    def is_unwanted(self, entry_id: str, tenant: str) -> bool:
        """Whether the tenant said that it is wrong."""
        slot = self._ids.get(entry_id)
        return slot is not None and tenant in slot.objectors

    def cohort(self, name: str) -> CohortLike:
        """name: tenant/deployment. It is made when it is first asked for."""
        cohort = self.cohorts.get(name)
        if cohort is None:
            cohort = self.cohorts[name] = self._make_cohort(self._bound)
        return cohort

    def judge(self, name: str) -> JudgeError:
        """What is known of a judge's error; name: see `cache.planted.record_of`."""
        return self._judges.setdefault(name, JudgeError(self._bound.confidence))

    def learned(self, cohort: str, now: float) -> Learned | None:
        """All that it learned so far; None: nothing."""
        judge = self._judges.get(cohort)
        if judge is not None:
            return Learned(cohort, judge.snapshot(), judge.pairs, now)
        found = self.cohorts.get(cohort)
        labels = found.status().labels if found is not None else 0
        return Learned(cohort, found.snapshot(), labels, now) if found is not None and labels else None

    def stats(self) -> LibraryStats:
        return msgspec.structs.replace(
            self._stats,
            entries=len(self),
            size_bytes=self.size_bytes,
            vectors=sum(len(place) for place in self._places.values()),
            partitions=len(self._places),
        )

    def _add(self, entry: Entry) -> None:
        if entry.id in self._ids or entry.id in self._barred or self._was_purged(entry):
            return
        older = self._keys.get(entry.key)
        if older is not None and self._is_gone(older):
            self._drop_purged(older)
            older = None
        if older is not None and (older.entry.created_at, older.entry.id) > (entry.created_at, entry.id):
            return
        slot = Slot(entry, self._next, self._ranking.clock, size_of(entry))
        if slot.size_bytes > self._max_bytes // LARGEST_SHARE:
            self._stats.too_large += 1
            return
        self._next += 1
        if older is not None:
            slot.hits = older.hits
            self._drop(older)
            self._stats.replaced += 1
        self._keep(slot)
        self._make_room()

    def _keep(self, slot: Slot) -> None:
        entry = slot.entry
        self.votes.forget(entry.key)
        self._keys[entry.key] = self._ids[entry.id] = self._slots[slot.number] = slot
        self.size_bytes += slot.size_bytes
        self._stats.added += 1
        heapq.heappush(self._ends, (entry.expires_at, slot.number))
        self._ranking.add(slot.number, self._rank_of(slot))
        if entry.vector and entry.partition:
            self.cohort(entry.cohort).added(entry.id, entry.text)
            if self._unindexed:
                self._unindexed.append(slot)
            else:
                self._index(slot)

    def _index(self, slot: Slot) -> None:
        entry = slot.entry
        if entry.vector and entry.partition and entry.embedder == self._embedder:
            place = self._place(entry)
            slot.indexed = place.add(slot.number, entry.vector, entry.first)
            if slot.indexed:
                self._places[entry.partition] = place

    def _place(self, entry: Entry) -> Place:
        place = self._places.get(entry.partition)
        if place is None:
            from cache.index import HALF_BYTES, Place

            place = Place(len(entry.vector) // HALF_BYTES)
        return place

    def _drop(self, slot: Slot, *, forget: bool = True) -> None:
        entry = slot.entry
        del self._ids[entry.id], self._slots[slot.number]
        if self._keys.get(entry.key) is slot:
            del self._keys[entry.key]
        self._used.pop(entry.id, None)
        self.size_bytes -= slot.size_bytes
        if slot.indexed:
            place = self._places[entry.partition]
            place.remove(slot.number)
            self._untidy.add(entry.partition)
            if not len(place):
                del self._places[entry.partition]
        if forget and entry.vector and entry.partition:
            self.cohort(entry.cohort).forget(entry.id)

    def _make_room(self) -> None:
        while self.size_bytes > self._max_bytes:
            number = self._ranking.take()
            assert number is not None, "every slot is ranked"
            self._drop(self._slots[number])
            self._stats.evicted += 1
        self._ranking.compact(len(self))
        if len(self._ends) > 2 * len(self) + 64:
            self._ends = [each for each in self._ends if each[1] in self._slots]
            heapq.heapify(self._ends)

    def _rank(self, number: int) -> float | None:
        slot = self._slots.get(number)
        return None if slot is None else self._rank_of(slot)

    def _rank_of(self, slot: Slot) -> float:
        entry = slot.entry
        saves = worth(entry.saved_s, entry.nano_usd, slot.hits, slot.confirmed, slot.contradicted)
        return slot.clock + saves / slot.size_bytes

    def _signals(self, slot: Slot) -> Signals | None:
        if slot.signals is None and self._read_signals is not None:
            slot.signals = self._read_signals(slot.entry.text)
        return slot.signals

    def _judge(self, judged: Judged) -> None:
        if is_of_judge(judged.cohort):
            self.judge(judged.cohort).hear(judged)
            return
        self.cohort(judged.cohort).learn(judged)
        slot = self._ids.get(judged.look.candidate)
        if slot is None:
            return
        if judged.equal:
            slot.confirmed += 1
        else:
            slot.contradicted += 1

    def _quarantine(self, ids: Sequence[str]) -> tuple[str, ...]:
        wrong = dict.fromkeys(ids)
        for entry_id in ids:
            slot = self._ids.get(entry_id)
            cohorts = [self.cohort(slot.entry.cohort)] if slot is not None else list(self.cohorts.values())
            for cohort in cohorts:
                wrong.update(dict.fromkeys(cohort.quarantine(entry_id)))
        for entry_id in wrong:
            self._barred[entry_id] = None
            slot = self._ids.get(entry_id)
            if slot is not None:
                self._drop(slot, forget=False)
                self._stats.quarantined += 1
        while len(self._barred) > BARRED:
            del self._barred[next(iter(self._barred))]
        return tuple(wrong)

    def _object(self, entry_id: str, tenant: str) -> None:
        slot = self._ids.get(entry_id)
        if slot is None or tenant in slot.objectors:
            return
        slot.objectors += (tenant,)
        if len(slot.objectors) >= OBJECTORS:
            self._quarantine((entry_id,))

    def _purge(self, purged: Purged) -> None:
        if purged in self._purges:
            return
        if purged.selector.id is None:
            self.votes.forget_before(purged.at)
        self._purges.append(purged)
        slots = self._slots.values() if purged.selector.id is None else self._selected(purged.selector)
        self._going.append((purged, self._next, deque(slots)))
        if len(slots) <= PURGED and len(self._going) == 1:
            self._purge_some()

    def _purge_some(self) -> None:
        purged, _, slots = self._going[0]
        for _ in range(min(PURGED, len(slots))):
            slot = slots.popleft()
            if self._slots.get(slot.number) is slot and purged.selector.matches(slot.entry):
                self._drop_purged(slot)
        if not slots:
            self._going.popleft()

    def _drop_purged(self, slot: Slot) -> None:
        self._drop(slot)
        self._stats.purged += 1

    def _is_gone(self, slot: Slot) -> bool:
        """Whether it was purged, though it is still there."""
        return any(slot.number < before and purged.selector.matches(slot.entry) for purged, before, _ in self._going)

    def _was_purged(self, entry: Entry) -> bool:
        return any(purged.at >= entry.created_at and purged.selector.matches(entry) for purged in self._purges)

    def _selected(self, selector: Selector) -> list[Slot]:
        if selector.id is not None:
            slot = self._ids.get(selector.id)
            return [slot] if slot is not None and selector.matches(slot.entry) and not self._is_gone(slot) else []
        found = [slot for slot in self._ids.values() if selector.matches(slot.entry)]
        return [slot for slot in found if not self._is_gone(slot)] if self._going else found

    def _use(self, used: Used) -> None:
        if used.by == self._me:
            return
        for entry_id, hits in used.hits.items():
            slot = self._ids.get(entry_id)
            if slot is not None:
                slot.hits += hits
                slot.clock = self._ranking.clock


def _as_floats(vector: bytes | Floats) -> Floats:
    from cache.index import as_floats

    return as_floats(vector) if isinstance(vector, bytes) else vector
