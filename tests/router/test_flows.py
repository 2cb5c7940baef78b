"""Flows of one tenant take turns within that tenant's share; tenants without any are served as ever."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.fair_queue import MOST_IDLE, Entry, FairQueue

Queue = FairQueue[str]


def put(to: Queue, tenant: str, flow: str, *, cost: float = 1.0, deadline_s: float = math.inf) -> Entry[str]:
    entry = Entry(tenant, cost, flow or tenant, 0, deadline_s, flow)
    assert to.push(entry, 0.0) is None
    return entry


def served(of: Queue, count: int = 1000) -> str:
    found: list[str] = []
    while len(found) < count and (entry := of.pop(0.0)) is not None:
        found.append(entry.payload)
    return "".join(found)


@pytest.fixture
def queue() -> Queue:
    return FairQueue(1000, 10.0, credit=0.0)


def test_a_flow_that_asks_a_lot_makes_no_other_one_of_its_tenant_wait(queue: Queue) -> None:
    for _ in range(6):
        put(queue, "t", "h")
    put(queue, "t", "l")
    put(queue, "t", "l")
    assert served(queue) == "hlhlhhhh"


def test_turns_are_counted_in_what_they_cost(queue: Queue) -> None:
    for _ in range(3):
        put(queue, "t", "h", cost=10.0)
    for _ in range(15):
        put(queue, "t", "l", cost=1.0)
    assert served(queue) == "h" + 10 * "l" + "h" + 5 * "l" + "h"


def test_a_tenant_gets_no_more_for_having_many_flows(queue: Queue) -> None:
    for number in range(20):
        put(queue, "many", str(number % 10))
        put(queue, "one", "")
    first = [queue.pop(0.0) for _ in range(20)]
    assert Counter(entry.tenant for entry in first if entry is not None) == {"many": 10, "one": 10}


def test_what_has_no_name_is_a_flow_like_the_others(queue: Queue) -> None:
    put(queue, "t", "h")
    for _ in range(4):
        put(queue, "t", "h")
        put(queue, "t", "")
    assert served(queue) == "hthththth"


def test_what_came_before_any_name_was_known_goes_first(queue: Queue) -> None:
    for _ in range(3):
        put(queue, "t", "")
    for _ in range(3):
        put(queue, "t", "l")
    assert served(queue) == "tttlll"


def test_a_flow_that_comes_late_owes_nothing_for_the_time_before(queue: Queue) -> None:
    for _ in range(8):
        put(queue, "t", "h")
    assert served(queue, 4) == "hhhh"
    for _ in range(3):
        put(queue, "t", "l")
    assert sorted(served(queue, 6)) == ["h", "h", "h", "l", "l", "l"], "it takes every other turn"
    assert served(queue) == "h"


def test_without_names_the_earliest_deadline_goes_first(queue: Queue) -> None:
    entries = [put(queue, "t", "", deadline_s=deadline_s) for deadline_s in (3.0, 1.0, 2.0)]
    assert [queue.pop(0.0) for _ in range(3)] == [entries[1], entries[2], entries[0]]


def test_a_tenant_that_has_nothing_left_begins_anew(queue: Queue) -> None:
    put(queue, "t", "h", cost=100.0)
    put(queue, "t", "h", cost=100.0)
    assert served(queue) == "hh"
    put(queue, "t", "h", cost=100.0)
    put(queue, "t", "l", cost=1.0)
    assert served(queue) == "hl", "nothing is held against a flow when nobody of its tenant waits"


def test_a_million_names_are_not_all_remembered(queue: Queue) -> None:
    put(queue, "t", "first")
    for number in range(5 * MOST_IDLE):
        put(queue, "t", f"{number}")
        queue.pop(0.0)
    [band] = queue._bands
    assert len(band.flows["t"].ends) <= MOST_IDLE + 10


def test_ever_new_names_keep_nobody_waiting(queue: Queue) -> None:
    """R09."""
    for _ in range(10):
        put(queue, "t", "old")
    for number in range(200):
        put(queue, "t", f"new{number}")
        put(queue, "t", f"more{number}")
        queue.pop(0.0)
        queue.pop(0.0)
    assert not [entry for entry in queue if entry.flow == "old"]


def test_with_no_room_the_flow_that_has_most_gives_way() -> None:
    queue: Queue = FairQueue(4, 10.0, credit=0.0)
    entries = [put(queue, "t", "h") for _ in range(4)]
    light = Entry("t", 1.0, "l", flow="l")
    assert queue.push(light, 0.0) is entries[3]
    more = Entry("t", 1.0, "h", flow="h")
    assert queue.push(more, 0.0) is more
    other = Entry("other", 1.0, "o")
    assert queue.push(other, 0.0) is entries[2], "of another tenant that has more, too"
    assert sorted(served(queue)) == ["h", "h", "l", "o"]


def test_a_share_may_change_while_it_runs() -> None:
    weights = {"a": 1.0, "b": 1.0}
    queue: Queue = FairQueue(1000, 10.0, weights, credit=0.0)
    for _ in range(40):
        put(queue, "a", "")
        put(queue, "b", "")
    assert Counter(served(queue, 10)) == {"a": 5, "b": 5}
    weights["a"] = 3.0
    put(queue, "a", "")
    put(queue, "b", "")
    assert Counter(served(queue, 20)) == {"a": 15, "b": 5}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "x", "y", "z"]))), st.integers(0, 8))
def test_the_position_is_exact_where_all_cost_the_same(rows: list[tuple[str, str]], popped: int) -> None:
    queue: Queue = FairQueue(1000, 10.0, credit=0.0)
    for tenant, flow in rows:
        put(queue, tenant, flow)
    for _ in range(popped):
        queue.pop(0.0)
    told = {entry: queue.position(entry) for entry in queue}
    for place in range(len(queue)):
        entry = queue.pop(0.0)
        assert entry is not None
        assert told[entry] == place


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.floats(0.5, 50.0)), min_size=1, max_size=60))
def test_no_two_flows_that_wait_drift_apart(rows: list[tuple[str, float]]) -> None:
    """Over any stretch in which both have entries, their service differs by two entries' cost at most."""
    queue: Queue = FairQueue(1000, 10.0, credit=0.0)
    left: Counter[str] = Counter()
    for flow, cost in rows:
        put(queue, "t", flow, cost=cost)
        left[flow] += 1
    most = {flow: max(cost for name, cost in rows if name == flow) for flow in left}
    done = dict.fromkeys(left, 0.0)
    while (entry := queue.pop(0.0)) is not None:
        done[entry.flow] += entry.cost
        left[entry.flow] -= 1
        busy = [flow for flow in left if left[flow]]
        for one in busy:
            for other in busy:
                assert done[one] - done[other] <= most[one] + most[other] + 1e-6
