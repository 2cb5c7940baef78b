"""Every store against a model that is too simple to be wrong: any order of calls, any time between them."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from gateway.config import Redis as Options
from gateway.limits.local_store import LocalCounts, LocalStore
from gateway.limits.redis_store import RedisStore
from gateway.limits.seam import SLOTS, Change, Grant, Meter, Span, Store, Want
from tests.valkey import valkey_running

T = TypeVar("T")
HOLDERS = 3
SPANS_US = {Span.MINUTE: 60_000_000, Span.DAY: 86_400_000_000}
METERS = [
    Meter("small", 3, Span.MINUTE),
    Meter("large", 1_000_000_007, Span.MINUTE),
    Meter("day", 50, Span.DAY),
    Meter("usd a day", 9_000_000_000_000, Span.UTC_DAY),
    Meter("usd a month", 20_000_000_000_000, Span.UTC_MONTH),
    Meter("parallel", 5, Span.NOW),
]
SHARES = st.sampled_from([0.0, 0.001, 0.1, 0.3, 0.5, 1.0, 1.5])
PAUSES_US = st.one_of(
    st.integers(0, 300_000),
    st.sampled_from([2_999_999, 3_000_000, 3_000_001]),
    st.sampled_from([234_375, 468_750, 60_000_000, 60_234_375, 337_500_000, 86_400_000_000]),
    st.integers(0, 5_000_000),
    st.integers(0, 70_000_000),
    st.integers(0, 90_000_000_000),
)


class Time:
    def __init__(self) -> None:
        self.us = 0

    def monotonic(self) -> float:
        return self.us / 1e6

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


@dataclass
class Leased:
    """What the model knows of a lease. slots: what each of the stores calls where it is counted.

    units: what did not come back, `spent` of them used; extra: what was used beyond them.
    """

    meter: Meter
    holder: int
    units: int
    taken_us: int
    slots: list[int]
    spend_by_us: float
    free_us: float
    spent: int = 0
    extra: int = 0


@dataclass
class Model:
    """All leases ever, added up anew for each question."""

    leases: list[Leased] = field(default_factory=list)
    spent: list[tuple[Meter, int, int]] = field(default_factory=list)
    flights: dict[int, tuple[int, int]] = field(default_factory=dict)

    def used(self, meter: Meter, now_us: int) -> int:
        if meter.span is Span.NOW:
            return sum(units for units, until_us in self.flights.values() if until_us > now_us)
        return sum(one.units + one.extra for one in self.leases if one.meter == meter and counts(one, now_us))

    def spent_in_window(self, meter: Meter, now_us: int) -> int:
        since = [units for other, at_us, units in self.spent if other == meter and same_window(meter, at_us, now_us)]
        return sum(since)


def counts(lease: Leased, now_us: int) -> bool:
    span_us = SPANS_US.get(lease.meter.span)
    if span_us is None:
        return same_window(lease.meter, lease.taken_us, now_us)
    slot = span_us // SLOTS
    return now_us // slot - lease.taken_us // slot <= SLOTS + 1


def same_window(meter: Meter, then_us: int, now_us: int) -> bool:
    """By the limit's own words: any minute, any day, or one calendar day or month."""
    if meter.span in SPANS_US:
        return then_us > now_us - SPANS_US[meter.span]
    form = "%Y-%m-%d" if meter.span is Span.UTC_DAY else "%Y-%m"
    return _utc(then_us).strftime(form) == _utc(now_us).strftime(form)


def _utc(us: int) -> datetime:
    return datetime.fromtimestamp(us // 1_000_000, UTC)


class Stores(RuleBasedStateMachine):
    """LocalStore and RedisStore, side by side, with several holders each."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    url: str
    games = itertools.count()
    leases: Bundle[Leased] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.time = Time()
        self.model = Model()

    @initialize(
        start_us=st.integers(1_700_000_000_000_000, 1_900_000_000_000_000),
        meters=st.lists(st.sampled_from(METERS), min_size=1, max_size=4, unique=True),
    )
    def begin(self, start_us: int, meters: list[Meter]) -> None:
        self.time.us = start_us
        self.meters = meters
        self.counts = LocalCounts(self.time, self.time.monotonic)
        self.options = Options(url=self.url, prefix=f"game-{next(self.games)}", timeout_s=5.0)
        self.stores = [self.new_stores() for _ in range(HOLDERS)]

    def new_stores(self) -> list[Store]:
        return [LocalStore(self.counts), RedisStore(self.options, self.time, lambda: self.time.us)]

    def teardown(self) -> None:
        for store in itertools.chain(*getattr(self, "stores", [])):
            self.run(store.aclose())

    @rule(pause_us=PAUSES_US)
    def wait(self, pause_us: int) -> None:
        self.time.us += pause_us

    @rule(meter=st.integers(0, 3), slots=st.integers(0, 3), less_us=st.integers(0, 1))
    def wait_for_a_boundary(self, meter: int, slots: int, less_us: int) -> None:
        slot_us = SPANS_US.get(self.meters[meter % len(self.meters)].span, 86_400_000_000 * SLOTS) // SLOTS
        self.time.us = max(self.time.us, (self.time.us // slot_us + 1 + slots) * slot_us - less_us)

    @rule(lease=leases, less_us=st.integers(0, 1))
    def wait_until_it_was_to_be_spent(self, lease: Leased, less_us: int) -> None:
        if lease.meter.span is not Span.NOW:
            self.time.us = max(self.time.us, math.floor(lease.spend_by_us) - less_us)

    @rule(lease=leases, less_us=st.integers(0, 1))
    def wait_until_all_is_said_to_be_free(self, lease: Leased, less_us: int) -> None:
        self.time.us = max(self.time.us, math.ceil(lease.free_us) - less_us)

    @rule(
        target=leases,
        holder=st.integers(0, HOLDERS - 1),
        asked=st.lists(st.tuples(SHARES, SHARES), min_size=4, max_size=4),
        spent=st.booleans(),
    )
    def take(self, holder: int, asked: list[tuple[float, float]], spent: bool) -> Any:
        """spent: at once."""
        wants = [want(meter, *shares) for meter, shares in zip(self.meters, asked, strict=False)]
        answers: list[list[Grant]] = [self.run(store.take(wants)) for store in self.stores[holder]]
        taken = [self.judge(holder, want, [grants[index] for grants in answers]) for index, want in enumerate(wants)]
        leases = [lease for lease in taken if lease is not None]
        for lease in leases if spent else ():
            self.use(lease, lease.units)
        return multiple(*leases)

    def judge(self, holder: int, want: Want, grants: Sequence[Grant]) -> Leased | None:
        now_us, meter = self.time.us, want.meter
        left = meter.limit - self.model.used(meter, now_us)
        amount = min(want.most, left) if min(want.most, left) >= max(1, want.least) else 0
        for grant in grants:
            assert (grant.amount, grant.left) == (amount, max(0, left - amount)), (meter, grant)
            assert grant.spend_by_s == pytest.approx(grants[0].spend_by_s, abs=1e-5)
            assert grant.resets_in_s == pytest.approx(grants[0].resets_in_s, abs=1e-5)
            assert grant.resets_in_s >= 0.0
        if not amount:
            self.must_be_refused(want)
            return None
        spend_by_us, free_us = grants[1].spend_by_s * 1e6, now_us + grants[1].resets_in_s * 1e6
        lease = Leased(meter, holder, amount, now_us, [grant.slot for grant in grants], spend_by_us, free_us)
        self.model.leases.append(lease)
        if meter.span is Span.NOW:
            assert grants[0].spend_by_s == math.inf
            self.hold(holder, self.held(holder) + amount)
        return lease

    def must_be_refused(self, want: Want) -> None:
        """What was given back, and what is older than the span and two slots, must not stand in the way."""
        meter, now_us = want.meter, self.time.us
        if meter.span not in SPANS_US:
            return
        young_us = SPANS_US[meter.span] * (SLOTS + 2) // SLOTS
        leases = [one for one in self.model.leases if one.meter == meter and now_us - one.taken_us < young_us]
        assert meter.limit - sum(one.units + one.extra for one in leases) < max(1, want.least)

    @rule(lease=leases, share=SHARES)
    def spend(self, lease: Leased, share: float) -> None:
        if lease.meter.span is not Span.NOW and self.time.us < lease.spend_by_us:
            self.use(lease, min(math.ceil(lease.units * share), lease.units - lease.spent))

    def use(self, lease: Leased, units: int) -> None:
        lease.spent += units
        self.model.spent.append((lease.meter, self.time.us, units))

    @rule(lease=leases, slots=st.integers(0, 2))
    def be_as_greedy_as_can_be(self, lease: Leased, slots: int) -> None:
        """Spend it at the last moment, and take and spend all there is as soon as it counts no more."""
        self.wait_until_it_was_to_be_spent(lease, 1)
        self.spend(lease, 1.0)
        for after in range(slots + 1):
            self.wait_until_all_is_said_to_be_free(lease, 1 if after < slots else 0)
            self.take(lease.holder, [(0.0, 1.0)] * 4, spent=True)

    @rule(lease=leases, share=SHARES)
    def give_back(self, lease: Leased, share: float) -> None:
        units = min(lease.units - lease.spent, math.ceil(lease.units * share))
        if not units or (lease.meter.span is Span.NOW and not self.held(lease.holder)):
            return
        lease.units -= units
        self.correct(lease, -units)

    @rule(lease=leases, units=st.integers(1, 10))
    def use_more(self, lease: Leased, units: int) -> None:
        if lease.meter.span is not Span.NOW:
            lease.extra += units
            self.correct(lease, units)

    def correct(self, lease: Leased, units: int) -> None:
        for store, slot in zip(self.stores[lease.holder], lease.slots, strict=True):
            self.run(store.change([Change(lease.meter, slot, units)]))
        if lease.meter.span is Span.NOW:
            self.hold(lease.holder, self.held(lease.holder) + units)

    @rule(holder=st.integers(0, HOLDERS - 1), units=st.integers(0, 5))
    def beat(self, holder: int, units: int) -> None:
        """It says what it held when it was last heard of, or after a long silence anything."""
        units = self.held(holder) or min(units, METERS[-1].limit - self.model.used(METERS[-1], self.time.us))
        for store in self.stores[holder]:
            self.run(store.beat({METERS[-1]: units}))
        self.hold(holder, units)

    @rule(holder=st.integers(0, HOLDERS - 1))
    def crash(self, holder: int) -> None:
        """Nobody says anything of what it held; another takes its place."""
        _, remote = self.stores[holder]
        self.run(remote._link.aclose())  # type: ignore[attr-defined]
        self.stores[holder] = self.new_stores()
        ghost = max([*self.model.flights, HOLDERS]) + 1
        if holder in self.model.flights:
            self.model.flights[ghost] = self.model.flights.pop(holder)

    @rule(holder=st.integers(0, HOLDERS - 1))
    def leave(self, holder: int) -> None:
        for store in self.stores[holder]:
            self.run(store.aclose())
        self.stores[holder] = self.new_stores()
        self.model.flights.pop(holder, None)

    def held(self, holder: int) -> int:
        units, until_us = self.model.flights.get(holder, (0, 0))
        return units if until_us > self.time.us else 0

    def hold(self, holder: int, units: int) -> None:
        if units > 0:
            self.model.flights[holder] = (units, self.time.us + 3_000_000)
        else:
            self.model.flights.pop(holder, None)

    @invariant()
    def no_window_holds_more_than_its_limit(self) -> None:
        for meter in METERS[:-1]:
            assert self.model.spent_in_window(meter, self.time.us) <= meter.limit


def want(meter: Meter, least_share: float, most_share: float) -> Want:
    least = max(1, int(meter.limit * least_share))
    return Want(meter, least, max(least, int(meter.limit * most_share)))


@pytest.mark.timeout(180)
def test_no_order_of_calls_admits_more_than_a_limit_or_keeps_back_what_is_free() -> None:
    with asyncio.Runner() as runner:
        server = valkey_running()
        valkey = runner.run(server.__aenter__())
        try:

            class OnValkey(Stores):
                run = staticmethod(runner.run)
                url = valkey.url

            run_state_machine_as_test(
                OnValkey,
                settings=settings(
                    max_examples=100,
                    stateful_step_count=50,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(server.__aexit__(None, None, None))
