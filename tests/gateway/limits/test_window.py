"""Windows by themselves: pure, so that time is a number."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from gateway.limits.local_store import LocalCounts, LocalStore
from gateway.limits.seam import Change, Meter, Span, Want
from gateway.limits.window import CalendarWindow, InFlight, SlidingWindow, period

SLOT_S = 60 / 256
MINUTE = Meter("acme|requests|minute", 10, Span.MINUTE)
DAY = Meter("acme|usd|utc_day", 100, Span.UTC_DAY)
PARALLEL = Meter("acme|parallel", 3, Span.NOW)


class Time:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.unix_s = 1_700_000_000.0

    def monotonic(self) -> float:
        return self.now_s

    def unix(self) -> float:
        return self.unix_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def unix(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_a_lease_counts_until_its_slot_has_left_every_window_it_may_be_spent_in() -> None:
    window = SlidingWindow(60.0)
    lease = window.take(1, 10, 10, 0.1)
    assert (lease.amount, lease.left) == (10, 0)
    assert lease.spend_in_s == pytest.approx(2 * SLOT_S - 0.1)
    refused = window.take(1, 1, 10, 0.2)
    assert (refused.amount, refused.left) == (0, 0)
    free_s = 0.2 + refused.resets_in_s
    assert free_s == pytest.approx(258 * SLOT_S)
    assert free_s - (0.1 + lease.spend_in_s) >= 60.0  # spent at the last moment, and had again a minute later
    assert window.take(1, 1, 10, free_s - 1e-6).amount == 0
    assert window.take(1, 1, 10, free_s + 1e-6).amount == 1


def test_at_least_so_much_or_nothing_and_at_most_so_much() -> None:
    window = SlidingWindow(60.0)
    assert window.take(1, 4, 10, 0.0).amount == 4
    assert window.take(7, 9, 10, 0.0).amount == 0
    assert window.take(3, 9, 10, 0.0).amount == 6
    assert window.take(1, 9, 5, 0.0).left == 0  # the limit was lowered since
    assert repr(window) == "<SlidingWindow 10 in 1 slots of 0.234375 s>"


def test_when_least_may_be_had_again_is_said_exactly() -> None:
    window = SlidingWindow(60.0)
    for at_s in (0.0, 10.0, 20.0):
        window.take(3, 3, 9, at_s)
    for least, expected_s in ((3, 258 * SLOT_S), (4, 10 + 258 * SLOT_S), (9, 20 + 258 * SLOT_S)):
        told_s = 30.0 + window.take(least, least, 9, 30.0).resets_in_s
        assert expected_s - SLOT_S < told_s <= expected_s
    assert window.take(10, 10, 9, 30.0).resets_in_s == pytest.approx(window.take(9, 9, 9, 30.0).resets_in_s)
    assert SlidingWindow(60.0).take(10, 10, 9, 30.0).resets_in_s == 0.0


def test_what_comes_back_may_be_had_at_once_and_no_more_than_was_leased_comes_back() -> None:
    window = SlidingWindow(60.0)
    slot = window.take(10, 10, 10, 0.0).slot
    window.change(slot, -4, 1.0)
    assert window.take(1, 99, 10, 1.0).amount == 4
    window.change(slot, -100, 1.0)
    assert window.take(1, 99, 10, 1.0).amount == 6


def test_more_than_was_leased_is_a_debt_in_its_slot() -> None:
    window = SlidingWindow(60.0)
    slot = window.take(10, 10, 10, 5.0).slot
    window.change(slot, 7, 6.0)
    window.change(slot - 3, 2, 6.0)
    refused = window.take(1, 1, 10, 6.0)
    assert (refused.amount, refused.left) == (0, 0)
    assert window.take(8, 8, 10, 5.0 + 258 * SLOT_S).amount == 8
    window.change(slot, 5, 70.0)  # it counts no more
    assert window.is_idle(200.0)


def test_at_the_limit_less_than_one_percent_goes_unused() -> None:
    window, had, now_s = SlidingWindow(60.0), 0, 0.0
    while now_s < 6000.0:
        had += window.take(1, 10_000, 1000, now_s).amount
        now_s += 0.01
    assert 0.99 * 100_000 <= had - 1000 <= 100_000


@pytest.mark.parametrize(
    ("span", "now", "ends"),
    [
        (Span.UTC_DAY, "2026-02-28T23:59:59", "2026-03-01"),
        (Span.UTC_MONTH, "2026-12-31T23:59:59", "2027-01-01"),
        (Span.UTC_MONTH, "2028-02-01", "2028-03-01"),
        (Span.UTC_MONTH, "2026-11-22T12:00:00", "2026-12-01"),
    ],
)
def test_a_calendar_period_ends_at_midnight_utc(span: Span, now: str, ends: str) -> None:
    number, ends_s = period(span, unix(now))
    assert ends_s == unix(ends)
    assert period(span, ends_s) == (number + 1, period(span, ends_s)[1])


def test_a_calendar_window_begins_anew_at_its_end_and_no_lease_outlasts_it() -> None:
    window, midnight_s = CalendarWindow(Span.UTC_DAY), unix("2026-03-01")
    early = window.take(1, 60, 100, midnight_s - 3600)
    late = window.take(1, 60, 100, midnight_s - 10)
    assert (early.amount, early.spend_in_s, late.amount, late.spend_in_s) == (60, 60.0, 40, 10.0)
    assert window.take(1, 1, 100, midnight_s - 1).resets_in_s == 1.0
    assert window.take(1, 100, 100, midnight_s).amount == 100
    window.change(late.slot, -40, midnight_s + 1)  # yesterday's
    assert window.take(1, 1, 100, midnight_s + 1).amount == 0
    assert repr(window).startswith("<CalendarWindow utc_day {")


def test_a_wall_clock_that_steps_back_over_midnight_frees_nothing() -> None:
    window, midnight_s = CalendarWindow(Span.UTC_DAY), unix("2026-03-01")
    assert window.take(1, 100, 100, midnight_s - 1).amount == 100
    assert window.take(1, 50, 100, midnight_s + 0.1).amount == 50
    assert window.take(1, 1, 100, midnight_s - 0.1).amount == 0
    assert window.take(1, 100, 100, midnight_s + 0.2).amount == 50
    assert not window.is_idle(midnight_s + 86400)
    assert window.is_idle(midnight_s + 2 * 86400)


def test_a_holder_that_is_heard_of_no_more_holds_nothing() -> None:
    flight = InFlight()
    assert flight.take("a", 1, 2, 3, 0.0).amount == 2
    lease = flight.take("b", 1, 2, 3, 1.0)
    assert (lease.amount, lease.spend_in_s, lease.left, lease.resets_in_s) == (1, math.inf, 0, 0.0)
    assert flight.take("b", 1, 1, 3, 2.9).resets_in_s == 0.05
    assert flight.take("b", 1, 2, 3, 3.0).amount == 2
    flight.change("b", -1, 3.0)
    assert repr(flight) == "<InFlight {'b': 2}>"
    assert flight.take("c", 1, 1, 3, 3.0).amount == 1
    flight.hold("b", 0, 3.0)
    flight.hold("c", 1, 6.0)
    assert not flight.is_idle(8.9)
    assert flight.is_idle(9.0)


async def test_stores_of_one_process_share_what_they_count() -> None:
    time = Time()
    counts = LocalCounts(time, time.unix)
    one, two = LocalStore(counts), LocalStore(counts)
    grants = await one.take([Want(MINUTE, 1, 6), Want(DAY, 1, 60), Want(PARALLEL, 1, 2)])
    assert [grant.amount for grant in grants] == [6, 60, 2]
    assert grants[0].spend_by_s == pytest.approx(1000.0 + 2 * SLOT_S - 1000.0 % SLOT_S)
    assert grants[2].spend_by_s == math.inf
    assert [grant.amount for grant in await two.take([Want(MINUTE, 5, 9), Want(DAY, 1, 60), Want(PARALLEL, 1, 2)])] == [
        0,
        40,
        1,
    ]
    await one.change([Change(MINUTE, grants[0].slot, -6), Change(PARALLEL, 0, -1)])
    assert [grant.amount for grant in await two.take([Want(MINUTE, 9, 9), Want(PARALLEL, 1, 2)])] == [9, 1]
    await one.beat({PARALLEL: 1})
    await one.aclose()
    assert (await two.take([Want(PARALLEL, 1, 9)]))[0].amount == 1
    assert repr(two).startswith("<LocalStore 1 of <LocalCounts {'acme|requests|minute': <SlidingWindow 9 in 1")


async def test_meters_that_are_idle_take_up_no_memory() -> None:
    time = Time()
    counts = LocalCounts(time, time.unix)
    store = LocalStore(counts)
    await store.take([Want(MINUTE, 1, 6), Want(DAY, 1, 60), Want(PARALLEL, 1, 2)])
    time.now_s += 61.0
    time.unix_s += 61.0
    await store.take([])
    assert len(counts) == 1  # the day goes on
    time.now_s += 200_000.0
    time.unix_s += 200_000.0
    await store.take([])
    assert len(counts) == 0
