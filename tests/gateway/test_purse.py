"""An hour's money: whatever comes, no hour holds more than was allowed when it was promised."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from gateway.prices import Price
from gateway.purse import Bill, Purse
from gateway.record import Usage

USD_PER_TOKEN = Price(source="test", input=Decimal(1_000_000))
"""So that a token costs 1 USD."""


def promise(purse: Purse, usd: int, now_s: float) -> Bill | None:
    if not purse.fits(Decimal(usd), now_s):
        return None
    return purse.promise(Decimal(usd), USD_PER_TOKEN, now_s)


def test_the_last_cent_may_be_spent_and_no_more() -> None:
    purse = Purse(Decimal(10))
    assert promise(purse, 7, 0.0) and promise(purse, 3, 1.0)
    assert promise(purse, 1, 2.0) is None
    assert repr(purse) == "<Purse spent=10 limit=10>"


def test_a_bill_is_settled_to_what_was_used_and_only_once() -> None:
    purse = Purse(Decimal(10))
    bill = promise(purse, 7, 0.0)
    assert bill is not None and repr(bill) == "<Bill expected=7>"
    bill.settle(Usage(prompt_tokens=4))
    bill.settle(Usage(prompt_tokens=9))
    bill.settle()
    assert purse.spent(1.0) == 4 and repr(bill) == "<Bill expected=7 settled>"


def test_what_was_never_sent_costs_nothing() -> None:
    purse = Purse(Decimal(10))
    bill = promise(purse, 7, 0.0)
    assert bill is not None
    bill.settle()
    assert purse.spent(0.0) == 0


def test_an_hour_slides_minute_by_minute() -> None:
    purse = Purse(Decimal(10))
    assert promise(purse, 6, 30.0) and promise(purse, 4, 1830.0)
    assert promise(purse, 1, 3629.0) is None, "the first one is within the hour"
    assert purse.spent(3659.0) == 10
    assert purse.spent(3660.0) == 4, "the first minute has left"
    assert promise(purse, 6, 3660.0)
    assert promise(purse, 1, 3660.0) is None
    assert purse.spent(100_000.0) == 0


def test_a_bill_that_comes_over_an_hour_later_changes_nothing() -> None:
    purse = Purse(Decimal(10))
    bill = promise(purse, 7, 0.0)
    assert bill is not None and purse.spent(4000.0) == 0
    bill.settle(Usage(prompt_tokens=9))
    assert purse.spent(4000.0) == 0


def test_without_a_limit_it_only_counts() -> None:
    purse = Purse(None)
    assert promise(purse, 10**6, 0.0)
    assert purse.spent(0.0) == 10**6


STEPS = st.lists(
    st.tuples(st.floats(0.0, 900.0), st.integers(0, 5), st.integers(0, 5), st.booleans()), min_size=1, max_size=60
)


@given(STEPS, st.integers(1, 20))
def test_no_hour_ever_holds_more_than_the_limit_where_nothing_costs_more_than_expected(
    steps: list[tuple[float, int, int, bool]], limit: int
) -> None:
    """Many at once: some are settled at their end, some never, all for at most what was expected."""
    purse, now_s = Purse(Decimal(limit)), 0.0
    kept: list[tuple[float, int]] = []
    for wait_s, usd, used, settled in steps:
        now_s += wait_s
        bill = promise(purse, usd, now_s)
        if bill is None:
            hour = sum(cost for at_s, cost in kept if at_s > now_s - 3660.0)
            assert hour + usd > limit, "refused, though there was money left"
            continue
        if settled:
            bill.settle(Usage(prompt_tokens=min(used, usd)))
        kept.append((now_s, min(used, usd) if settled else usd))
        assert sum(cost for at_s, cost in kept if at_s >= now_s - 3600.0) <= limit


@given(STEPS)
def test_the_sum_is_that_of_the_minutes_that_count(steps: list[tuple[float, int, int, bool]]) -> None:
    purse, now_s = Purse(None), 0.0
    kept: list[tuple[int, int]] = []
    for wait_s, usd, used, settled in steps:
        now_s += wait_s
        bill = purse.promise(Decimal(usd), USD_PER_TOKEN, now_s)
        if settled:
            bill.settle(Usage(prompt_tokens=used))
        kept.append((int(now_s // 60), used if settled else usd))
        assert purse.spent(now_s) == sum(cost for minute, cost in kept if minute >= int(now_s // 60) - 60)
