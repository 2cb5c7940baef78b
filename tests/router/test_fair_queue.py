"""The order in which requests that wait are served: pure, in virtual time (R09)."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.fair_queue import LOOK_AHEAD, LOOK_AHEAD_TENANT, MOST_IDLE, Entry, FairQueue, charge

Queue = FairQueue[str]


def queue(limit: int = 1000, age_s: float = 10.0, credit: float = 0.0, **weights: float) -> Queue:
    return FairQueue(limit, age_s, weights, credit)


def put(
    to: Queue,
    tenant: str,
    payload: str = "",
    *,
    cost: float = 1.0,
    priority: int = 0,
    deadline_s: float = math.inf,
    now_s: float = 0.0,
) -> Entry[str]:
    entry = Entry(tenant, cost, payload or tenant, priority, deadline_s)
    assert to.push(entry, now_s) is None
    return entry


def drained(of: Queue, now_s: float = 0.0) -> str:
    served = []
    while (entry := of.pop(now_s)) is not None:
        served.append(entry.payload)
    assert len(of) == 0
    return " ".join(served)


def test_the_lower_class_goes_first_whoever_asks() -> None:
    waiting = queue()
    put(waiting, "a", "batch", priority=2)
    put(waiting, "a", "chat", priority=0)
    put(waiting, "b", "default", priority=1)
    assert drained(waiting) == "chat default batch"


def test_tenants_take_turns_however_many_entries_each_has() -> None:
    """R09."""
    waiting = queue()
    for _ in range(6):
        put(waiting, "heavy")
    put(waiting, "light")
    put(waiting, "light")
    assert drained(waiting) == "heavy light heavy light heavy heavy heavy heavy"


def test_turns_are_by_cost_not_by_count() -> None:
    waiting = queue()
    for _ in range(4):
        put(waiting, "long", cost=charge(1000, 250))
    for _ in range(8):
        put(waiting, "short", cost=charge(600, 100))
    assert charge(1000, 250) == 2000.0
    assert drained(waiting) == "long short short long short short long short short long short short"


def test_a_tenant_of_double_weight_gets_double_the_service() -> None:
    waiting = queue(gold=2.0)
    for _ in range(4):
        put(waiting, "gold")
    for _ in range(2):
        put(waiting, "plain")
    assert drained(waiting) == "gold plain gold plain gold gold"


def test_idling_earns_no_credit_and_being_served_alone_costs_none() -> None:
    waiting = queue()
    put(waiting, "idler")
    waiting.pop(0.0)
    for _ in range(100):
        put(waiting, "busy")
        waiting.pop(0.0)
    for _ in range(3):
        put(waiting, "busy")
    for _ in range(3):
        put(waiting, "idler")
    assert drained(waiting) == "idler busy idler busy idler busy"


def test_a_tenant_that_asks_little_has_a_credit_that_is_bounded() -> None:
    """R09."""
    waiting = queue(credit=2.5)
    for _ in range(3):
        waiting.pass_by(Entry("light", 1.0, ""), 0.0)
    for _ in range(100):
        waiting.pass_by(Entry("heavy", 1.0, ""), 0.0)
    heavy = [put(waiting, "heavy") for _ in range(5)]
    light = [put(waiting, "light") for _ in range(5)]
    assert [entry.behind for entry in (heavy[0], light[0], Entry("new", 1.0, ""))] == [False, True, False]
    assert drained(waiting) == "light light light light heavy light heavy heavy heavy heavy"


def test_what_passes_by_an_empty_queue_is_charged_for() -> None:
    waiting = queue()
    for _ in range(3):
        waiting.pass_by(Entry("heavy", 10.0, ""), 0.0)
    put(waiting, "heavy", cost=10.0)
    put(waiting, "light", cost=10.0)
    assert drained(waiting) == "light heavy"


def test_of_a_tenant_the_earliest_deadline_goes_first_then_whoever_came_first() -> None:
    waiting = queue()
    put(waiting, "a", "none1")
    put(waiting, "a", "late", deadline_s=9.0)
    put(waiting, "a", "none2")
    put(waiting, "a", "soon", deadline_s=3.0)
    assert drained(waiting) == "soon late none1 none2"


def test_what_was_really_used_is_what_counts() -> None:
    waiting = queue()
    for _ in range(3):
        put(waiting, "a", cost=10.0)
        put(waiting, "b", cost=10.0)
    first, second = waiting.pop(0.0), waiting.pop(0.0)
    assert first is not None and second is not None
    waiting.settle(first, 40.0)
    waiting.settle(second, 10.0)
    assert first.cost == 40.0
    assert drained(waiting) == "b b a a"


def test_an_entry_that_was_popped_and_never_served_is_paid_back() -> None:
    waiting = queue()
    put(waiting, "a", "a1", cost=10.0)
    put(waiting, "a", "a2", cost=10.0)
    put(waiting, "b", cost=1.0)
    first = waiting.pop(0.0)
    assert first is not None
    waiting.settle(first, 0.0)
    assert drained(waiting) == "b a2"
    assert first.cost == 0.0


def test_waiting_lifts_an_entry_by_a_class_at_a_time_up_to_the_best_that_waits() -> None:
    """R09: nobody starves."""
    waiting = queue(age_s=10.0)
    old = put(waiting, "old", priority=3)
    put(waiting, "new", priority=1)
    bands = []
    for now_s in (9.9, 10.0, 20.0, 30.0, 60.0):
        put(waiting, "new", priority=1, now_s=now_s)
        bands.append(old.band)
    assert bands == [3, 2, 1, 1, 1]
    assert repr(old) == "<Entry old priority=3 band=1 cost=1>"
    entry = waiting.pop(60.0)
    assert entry is old or waiting.pop(60.0) is old


def test_within_one_class_waiting_changes_nothing_so_shares_stay_fair() -> None:
    """R09: else a long backlog would go before those that come."""
    waiting = queue(age_s=1.0)
    for _ in range(5):
        put(waiting, "heavy", priority=1)
    put(waiting, "light", priority=1, now_s=30.0)
    assert drained(waiting, 30.0) == "heavy light heavy heavy heavy heavy"


@pytest.mark.parametrize("entries", [1, LOOK_AHEAD_TENANT])
def test_an_entry_that_fits_nowhere_holds_up_nobody(entries: int) -> None:
    """R09: late binding to the replica that frees up."""
    waiting = queue()
    for _ in range(entries):
        put(waiting, "a", "on-premise")
    put(waiting, "a" if entries == 1 else "b", "anywhere")
    popped = waiting.pop(0.0, lambda entry: entry.payload == "anywhere")
    assert popped is not None and popped.payload == "anywhere"
    assert len(waiting) == entries


def test_one_tenants_entries_that_fit_nowhere_hide_nobody_elses() -> None:
    waiting = queue()
    for _ in range(500):
        put(waiting, "a", "on-premise")
    put(waiting, "b", "anywhere")
    popped = waiting.pop(0.0, lambda entry: entry.payload == "anywhere")
    assert popped is not None and popped.tenant == "b"


def test_the_look_ahead_is_bounded() -> None:
    waiting = queue()
    asked: list[Entry[str]] = []
    for tenant in range(3 * LOOK_AHEAD):
        put(waiting, f"t{tenant}")

    def refuse(entry: Entry[str]) -> bool:
        asked.append(entry)
        return False

    assert waiting.pop(0.0, refuse) is None
    assert len(asked) == len(set(asked)) == LOOK_AHEAD
    assert len(waiting) == 3 * LOOK_AHEAD


def test_who_knows_that_nothing_fits_ends_the_search() -> None:
    waiting = queue()
    for tenant in "abc":
        put(waiting, tenant)
    answers = iter([False, None])
    assert waiting.pop(0.0, lambda entry: next(answers)) is None
    assert next(answers, "asked twice") == "asked twice"


def test_a_full_queue_turns_the_newcomer_away() -> None:
    waiting = queue(limit=2)
    put(waiting, "a")
    put(waiting, "a")
    newcomer = Entry("a", 1.0, "new")
    assert waiting.push(newcomer, 0.0) is newcomer
    assert newcomer not in waiting
    worse = Entry("b", 1.0, "new", priority=1)
    assert waiting.push(worse, 0.0) is worse
    assert repr(waiting) == "<FairQueue 2/2 0:2>"


def test_a_better_class_takes_the_place_of_the_last_of_the_worst() -> None:
    waiting = queue(limit=3)
    put(waiting, "a", priority=0)
    put(waiting, "a", priority=1)
    last = put(waiting, "a", priority=1)
    assert waiting.push(Entry("a", 1.0, "new"), 0.0) is last
    assert repr(waiting) == "<FairQueue 3/3 0:2 1:1>"


def test_who_fills_the_queue_makes_room_for_others_of_the_same_class() -> None:
    """R09: a queue full of one tenant's entries is not full for the others."""
    waiting = queue(limit=4)
    entries = [put(waiting, "heavy") for _ in range(4)]
    assert waiting.push(Entry("light", 1.0, ""), 0.0) is entries[3]
    assert waiting.push(Entry("light", 1.0, ""), 0.0) is entries[2]
    third = Entry("light", 1.0, "")
    assert waiting.push(third, 0.0) is third
    again = Entry("heavy", 1.0, "")
    assert waiting.push(again, 0.0) is again


def test_room_is_shared_by_weight() -> None:
    waiting = queue(limit=6, gold=2.0)
    for _ in range(6):
        put(waiting, "plain")
    shed = [waiting.push(Entry("gold", 1.0, ""), 0.0) for _ in range(6)]
    assert Counter(entry.tenant for entry in shed if entry) == {"plain": 4, "gold": 2}


def test_a_queue_of_no_places_turns_everybody_away() -> None:
    waiting = queue(limit=0)
    entry = Entry("a", 1.0, "")
    assert waiting.push(entry, 0.0) is entry
    assert waiting.pop(0.0) is None


def test_whoever_gives_up_is_out_at_once_and_only_once() -> None:
    """A01."""
    waiting = queue()
    stays, leaves = put(waiting, "a", "stays"), put(waiting, "a", "leaves")
    assert waiting.remove(leaves)
    assert not waiting.remove(leaves)
    assert list(waiting) == [stays]
    assert drained(waiting) == "stays"
    assert not waiting.remove(stays)


def test_the_eta_follows_from_the_position() -> None:
    waiting = queue()
    entries = [put(waiting, "a") for _ in range(3)]
    assert [waiting.position(entry) for entry in entries] == [0, 1, 2]
    assert waiting.eta_s(entries[2], 0.5) == 6.0
    assert waiting.eta_s(entries[2], 0.0) == math.inf
    waiting.remove(entries[0])
    with pytest.raises(KeyError):
        waiting.position(entries[0])


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2), st.sampled_from([1.0, 5.0, math.inf]))),
    st.integers(0, 6),
)
def test_the_position_is_exact_where_all_cost_the_same(rows: list[tuple[str, int, float]], popped: int) -> None:
    waiting = queue()
    for tenant, priority, deadline_s in rows:
        put(waiting, tenant, priority=priority, deadline_s=deadline_s)
    for _ in range(popped):
        waiting.pop(0.0)
    told = {entry: waiting.position(entry) for entry in waiting}
    for place in range(len(waiting)):
        entry = waiting.pop(0.0)
        assert entry is not None and told[entry] == place


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(1.0, 1000.0)), max_size=60),
    st.tuples(*[st.sampled_from([0.5, 1.0, 2.0, 5.0])] * 4),
    st.randoms(use_true_random=False),
)
def test_no_two_tenants_that_wait_drift_apart(
    rows: list[tuple[int, float]], shares: tuple[float, ...], rng: random.Random
) -> None:
    """R09: over any stretch in which both have entries, their service over weight differs by two charges at most."""
    weights = {f"t{i}": weight for i, weight in enumerate(shares)}
    waiting: Queue = FairQueue(1000, 10.0, weights, credit=0.0)
    left: Counter[str] = Counter()
    most = dict.fromkeys(weights, 0.0)
    for i, cost in rows:
        put(waiting, f"t{i}", cost=cost)
        left[f"t{i}"] += 1
        most[f"t{i}"] = max(most[f"t{i}"], cost / weights[f"t{i}"])
    served: dict[str, list[float]] = {name: [0.0] for name in weights}
    until = dict.fromkeys(weights, 0)
    while (entry := waiting.pop(0.0)) is not None:
        left[entry.tenant] -= 1
        for name, weight in weights.items():
            served[name].append(served[name][-1] + (entry.cost / weight if name == entry.tenant else 0.0))
        if rng.random() < 0.2 and left[entry.tenant]:
            put(waiting, entry.tenant, cost=1.0)
            left[entry.tenant] += 1
        for name in weights:
            until[name] += bool(left[name])
    for one in weights:
        for other in weights:
            both = min(until[one], until[other]) + 1
            gaps = [a - b for a, b in zip(served[one][:both], served[other][:both], strict=True)]
            assert max(gaps) - min(gaps) <= most[one] + most[other] + 1e-6


def test_a_million_tenants_are_not_all_remembered() -> None:
    waiting = queue()
    for tenant in range(5 * MOST_IDLE):
        entry = put(waiting, f"t{tenant}", cost=float(tenant % 7))
        assert waiting.pop(0.0) is entry
    [band] = waiting._bands
    assert len(band.flows) <= 2 * MOST_IDLE
    waiting.settle(entry, 5.0)
    assert drained(waiting) == ""


class Served(RuleBasedStateMachine):
    """Against a model that knows only who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: Queue = FairQueue(12, 4.0, {"b": 2.0}, credit=50.0)
        self.waiting: dict[Entry[str], None] = {}
        self.left: list[Entry[str]] = []
        self.now_s = 0.0
        self.pops = 0

    @rule(
        tenant=st.sampled_from("abcde"),
        cost=st.floats(0.0, 100.0),
        priority=st.integers(0, 3),
        wait_s=st.floats(0.0, 50.0) | st.just(math.inf),
    )
    def push(self, tenant: str, cost: float, priority: int, wait_s: float) -> None:
        entry = Entry(tenant, cost, "", priority, self.now_s + wait_s)
        full = len(self.waiting) >= 12
        shed = self.queue.push(entry, self.now_s)
        assert (shed is not None) == full
        self.waiting[entry] = None
        if shed is not None:
            assert shed is entry or shed.band >= entry.priority
            assert shed.band == max(other.band for other in self.waiting)
            del self.waiting[shed]

    @precondition(lambda self: self.waiting)
    @rule()
    def pop(self) -> None:
        entry = self.queue.pop(self.now_s)
        assert entry is not None, "somebody waits and everything fits"
        assert entry.band == min(other.band for other in self.waiting)
        own = [o.deadline_s for o in self.waiting if (o.tenant, o.band) == (entry.tenant, entry.band)]
        assert entry.deadline_s == min(own)
        del self.waiting[entry]
        self.left.append(entry)

    @rule(tenants=st.sets(st.sampled_from("abcde")))
    def pop_what_fits(self, tenants: set[str]) -> None:
        entry = self.queue.pop(self.now_s, lambda entry: entry.tenant in tenants)
        if entry is None:
            # With twelve places and four classes nobody lies past the look-ahead but behind his own.
            assert not any(other.tenant in tenants for other in self.waiting)
        else:
            assert entry.tenant in tenants
            del self.waiting[entry]
            self.left.append(entry)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(list(self.waiting)))
        assert self.queue.remove(entry)
        assert not self.queue.remove(entry)
        del self.waiting[entry]

    @precondition(lambda self: self.left)
    @rule(cost=st.floats(0.0, 500.0))
    def settle(self, cost: float) -> None:
        self.queue.settle(self.left.pop(), cost)

    @rule(tenant=st.sampled_from("abcde"), cost=st.floats(0.0, 100.0))
    def pass_by(self, tenant: str, cost: float) -> None:
        entry = Entry(tenant, cost, "")
        self.queue.pass_by(entry, self.now_s)
        self.left.append(entry)

    @rule(seconds=st.floats(0.0, 15.0))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @invariant()
    def it_holds_exactly_those_that_wait(self) -> None:
        assert len(self.queue) == len(self.waiting) <= 12
        assert set(self.queue) == set(self.waiting)
        assert all(entry in self.queue for entry in self.waiting)
        assert sum(band.waiting for band in self.queue._bands) == len(self.waiting)
        for band in self.queue._bands:
            assert sum(len(flow.entries) for flow in band.order) == band.waiting
            assert set(band.order) == set(band.by_length) == {f for f in band.flows.values() if f.entries}
        assert {self.queue.position(e) < len(self.waiting) for e in self.waiting} <= {True}

    def teardown(self) -> None:
        served = 0
        while self.queue.pop(self.now_s) is not None:
            served += 1
        assert served == len(self.waiting), "nobody is left behind"


TestServed = Served.TestCase
TestServed.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 3), st.integers(1, 30), st.randoms(use_true_random=False))
def test_nobody_starves_however_many_of_a_better_class_come(priority: int, others: int, rng: random.Random) -> None:
    """R09: with twice as many arrivals as places, an entry is served within its ageing and a round of all tenants."""
    waiting = queue(limit=10_000, age_s=5.0)
    patient = put(waiting, "patient", cost=10.0, priority=priority)
    now_s = 0.0
    while patient in waiting:
        now_s += 0.1
        for _ in range(2):
            put(waiting, f"t{rng.randrange(others)}", cost=10.0, priority=0, now_s=now_s, deadline_s=now_s + 60.0)
        waiting.pop(now_s)
        assert now_s <= priority * 5.0 + (others + 2) * 0.1 + 0.1
