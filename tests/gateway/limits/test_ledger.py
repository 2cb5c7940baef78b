"""The ledger by itself, in virtual time."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from gateway.admission import Charge
from gateway.clock import RealClock
from gateway.errors import InsufficientQuota, LimitsUnavailable, RateLimited
from gateway.identity import Caller
from gateway.limits.cost import NOTHING, Cost
from gateway.limits.exchange import Exchange
from gateway.limits.ledger import LimitLedger
from gateway.limits.local_store import LocalCounts, LocalStore
from gateway.limits.seam import Change, Grant, Meter, Span, StoreLost, Want
from gateway.record import Record
from tests.gateway.limits.ledgers import ALICE, NANO_A_TOKEN, config_with, is_at_rest, ledger_over, record_of
from tests.harness.virtual import LoopClock, in_virtual_time


class Shared:
    """Ledgers over one store, which may be lost and which may be slow."""

    def __init__(self, count: int = 1, **limits: Any) -> None:
        self.clock = LoopClock()
        self.counts = LocalCounts(self.clock, self.clock.monotonic)
        self.stores = [Moody(LocalStore(self.counts)) for _ in range(count)]
        config = config_with(**limits)
        self.ledgers = [ledger_over(store, self.clock, config, workers=count) for store in self.stores]

    @property
    def one(self) -> LimitLedger:
        return self.ledgers[0]

    async def at_rest(self) -> None:
        await asyncio.sleep(5.0)
        assert all(is_at_rest(ledger) for ledger in self.ledgers), [ledger.shared for ledger in self.ledgers]
        assert all(ledger.shared._task is None for ledger in self.ledgers)


class Moody:
    """lost: it does not answer. stalls: so often the process stands still while it is asked. asked: to be leased."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self.lost = False
        self.stalls = 0
        self.asked: list[Want] = []

    async def take(self, wants: Sequence[Want]) -> list[Grant]:
        if self.stalls:
            self.stalls -= 1
            asyncio.get_running_loop()._virtual.now_s += 2.0  # type: ignore[attr-defined]
            raise StoreLost("no answer in time")
        self._look()
        self.asked += wants
        return await self._store.take(wants)

    async def change(self, changes: Sequence[Change]) -> None:
        self._look()
        await self._store.change(changes)

    async def beat(self, held: Mapping[Meter, int]) -> None:
        self._look()
        await self._store.beat(held)

    async def aclose(self) -> None:
        await self._store.aclose()

    def _look(self) -> None:
        if self.lost:
            raise StoreLost("it is away")


async def reserve(
    ledger: LimitLedger, caller: Caller = ALICE, *, tokens: int = 0, record: Record | None = None, deployment: str = "m"
) -> Charge:
    cost = Cost(tokens, 0, tokens * NANO_A_TOKEN) if tokens else NOTHING
    return await ledger.reserve(ledger.plan(caller, deployment), cost, record or record_of())


async def admitted(ledger: LimitLedger, **asked: Any) -> bool:
    try:
        with await reserve(ledger, **asked):
            return True
    except RateLimited:
        return False


def acme(**limits: Any) -> dict[str, Any]:
    return {"tenants": {"acme": {"limits": limits}}}


def played(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    in_virtual_time(main)


# Windows slide


@pytest.mark.parametrize(("limit", "count"), [(60, 1), (60, 3), (6_000, 1), (6_000, 3)])
def test_a05_at_the_limit_never_more_is_admitted_and_hardly_less(limit: int, count: int) -> None:
    """Twice what may be had is asked for, for five minutes, of all ledgers in turn."""

    async def test() -> None:
        shared = Shared(count, **acme(requests_per_minute=limit))
        recent: deque[float] = deque()
        most, total, number = 0, 0, 0
        end_s = shared.clock.monotonic() + 300.0
        while (now_s := shared.clock.monotonic()) < end_s:
            number += 1
            if await admitted(shared.ledgers[number % count]):
                recent.append(shared.clock.monotonic())
                total += 1
            while recent and recent[0] <= shared.clock.monotonic() - 60.0:
                recent.popleft()
            most = max(most, len(recent))
            await asyncio.sleep(max(0.0, now_s + 30.0 / limit - shared.clock.monotonic()))
        assert most <= limit
        assert total >= 0.99 * 5 * limit
        await shared.at_rest()

    played(test)


def test_a20_no_call_is_refused_while_there_is_room_though_others_spend_what_it_waits_for() -> None:
    """Eight that ask again at once, none of which finds the units that it has waited for, but by luck."""

    async def test() -> None:
        limits = {"requests_per_minute": 10**7, "tokens_per_minute": 10**9, "tokens_per_day": 10**11}
        shared = Shared(**acme(**limits, parallel=100_000))

        async def client() -> None:
            for _ in range(400):
                with await reserve(shared.one, tokens=78, record=record_of(10, 5)):
                    await asyncio.sleep(0)

        await asyncio.gather(*(client() for _ in range(8)))
        assert not shared.one.refused
        await shared.at_rest()

    played(test)


def test_a_busy_meter_is_fetched_ahead_so_that_no_call_waits() -> None:
    async def test() -> None:
        shared = Shared(**acme(requests_per_minute=600_000))
        for _ in range(20):
            for _ in range(10):
                with await reserve(shared.one):
                    pass
            await asyncio.sleep(0.02)
        asked = len(shared.stores[0].asked)
        for _ in range(10):
            coroutine = reserve(shared.one)
            with pytest.raises(StopIteration):  # it returns without waiting for anything
                coroutine.send(None)
        assert len(shared.stores[0].asked) == asked
        assert all(want.most <= 6_000 for want in shared.stores[0].asked), "a slice is at most 1 % of the limit"

    played(test)


def test_500_calls_at_once_are_one_question() -> None:
    async def test() -> None:
        shared = Shared(**acme(tokens_per_minute=1_000))
        calls = (reserve(shared.one, tokens=7) for _ in range(500))
        found = await asyncio.gather(*calls, return_exceptions=True)
        charges = [one for one in found if not isinstance(one, BaseException)]
        assert len(charges) == 1_000 // 7
        assert all(isinstance(one, RateLimited) for one in found if isinstance(one, BaseException))
        assert len(shared.stores[0].asked) < 10
        for charge in charges:
            charge.settle()
        await shared.at_rest()

    played(test)


# All or nothing


def test_a03_what_lacks_one_limit_spends_none() -> None:
    async def test() -> None:
        limits = {"requests_per_minute": 3, "tokens_per_minute": 100, "parallel": 2, "usd_per_day": "0.001"}
        shared = Shared(**acme(**limits))
        for _ in range(30):
            assert not await admitted(shared.one, tokens=101)
        held = [await reserve(shared.one, tokens=10, record=record_of(10)) for _ in range(2)]
        assert not await admitted(shared.one, tokens=10)
        for charge in held:
            charge.settle()
        assert await admitted(shared.one, tokens=80)
        assert not await admitted(shared.one, tokens=1), "three requests"
        await shared.at_rest()

    played(test)


@pytest.mark.parametrize("ends", [None, ValueError, asyncio.CancelledError, KeyboardInterrupt])
def test_a03_a_charge_is_settled_once_however_its_call_ends(ends: type[BaseException] | None) -> None:
    async def test() -> None:
        shared = Shared(**acme(tokens_per_minute=100, parallel=1))
        for _ in range(3):
            record = record_of()
            try:
                with await reserve(shared.one, tokens=40, record=record) as charge:
                    assert repr(shared.one) == "<LimitLedger in_flight=1>"
                    assert "1 draws" not in repr(charge) and "settled" not in repr(charge)
                    record.usage.completion_tokens = 30
                    if ends is not None:
                        raise ends
                    charge.settle()
            except (ValueError, asyncio.CancelledError, KeyboardInterrupt):
                pass
            charge.settle()
            assert "settled" in repr(charge)
        assert not await admitted(shared.one, tokens=11)
        assert await admitted(shared.one, tokens=10)
        await shared.at_rest()

    played(test)


def test_what_is_used_beyond_the_reservation_is_counted() -> None:
    async def test() -> None:
        shared = Shared(**acme(tokens_per_minute=100))
        with await reserve(shared.one, tokens=10, record=record_of(60)):
            pass
        await asyncio.sleep(0.1)
        assert not await admitted(shared.one, tokens=41)
        assert await admitted(shared.one, tokens=40)

    played(test)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0, 1.5])
def test_units_of_two_slots_go_back_to_where_they_were_taken(share: float) -> None:
    """A busy meter has some left of the last slot when more is leased in this one."""

    async def test() -> None:
        shared = Shared(**acme(tokens_per_minute=10_000_000))
        total = spanning = 0
        for number in range(200):
            asked = 1_000 + number
            used = int(asked * share)
            with await reserve(shared.one, tokens=asked, record=record_of(used)) as charge:
                spanning += charge._draws[0].rest is not None  # type: ignore[attr-defined]
            total += used
            await asyncio.sleep(0.0071)
        assert spanning or share < 0.5, "else what came back is spent first"
        await asyncio.sleep(2.0)
        window = shared.counts._windows["tenant=acme|tokens|minute"]
        assert window._total == total  # type: ignore[attr-defined]
        await shared.at_rest()

    played(test)


# What is told


def told(error: RateLimited) -> str:
    return re.sub(r"\d+\.?\d*(ms|s)\b", "…", error.message)


def test_a_refusal_names_limit_value_whose_use_and_setting() -> None:
    async def test() -> None:
        shared = Shared(
            tenants={"acme": {"limits": {"usd_per_month": "0.5"}, "teams": {"r": {"limits": {"tokens_per_day": 100}}}}},
            limits=[{"match": {"deployment": "m"}, "per": ["key"], "requests_per_day": 1}],
        )
        team = Caller("bob", "acme", team="r")
        with await reserve(shared.one, team, tokens=90, record=record_of(90)):
            pass
        with pytest.raises(RateLimited) as hit:
            await reserve(shared.one, Caller("carl", "acme", team="r"), tokens=20)
        assert told(hit.value) == (
            "Team 'r' of organisation 'acme' may use 100 tokens in any 24 hours (tenants.acme.teams.r.limits."
            "tokens_per_day); 90 are used or reserved, and this request may need 20. Try again in 24h5m…."
        )
        with pytest.raises(RateLimited) as hit:
            await reserve(shared.one, team, tokens=1)
        assert told(hit.value) == (
            "The calls that limits[0] counts together may send 1 request in any 24 hours (limits[0].requests_per_day); "
            "1 are used. Try again in 24h5m…."
        )
        with pytest.raises(InsufficientQuota) as spent:
            await reserve(shared.one, tokens=500_000)
        assert "Organisation 'acme' may spend 0.5 USD a month (UTC)" in spent.value.message
        assert "and this request may cost 0.5" in spent.value.message
        assert spent.value.retry_after_s == 120.0

    played(test)


def test_who_is_refused_is_believed_to_be_so_for_a_moment_and_then_asked_for_again() -> None:
    async def test() -> None:
        shared = Shared(2, **acme(parallel=1))
        one, other = shared.ledgers
        with await reserve(one):
            assert not await admitted(other)
            asked = len(shared.stores[1].asked)
            assert not await admitted(other), "known"
            assert len(shared.stores[1].asked) == asked
        await asyncio.sleep(0.06)
        assert await admitted(other)
        await shared.at_rest()

    played(test)


def test_a_place_given_back_elsewhere_a_moment_ago_is_had() -> None:
    """A client that ends one call and sends the next, which another worker gets."""

    async def test() -> None:
        shared = Shared(2, **acme(parallel=1))
        for number in range(20):
            assert await admitted(shared.ledgers[number % 2]), number

    played(test)


# Without the store


def lost(**when: Any) -> dict[str, Any]:
    limits = {"requests_per_minute": 6, "tokens_per_day": 1_000}
    return {"tenants": {"acme": {"limits": limits, **when}}}


def test_a14_a_slice_is_each_workers_share() -> None:
    async def test() -> None:
        shared = Shared(3, **lost())
        for store in shared.stores:
            store.lost = True
        for ledger in shared.ledgers:
            assert [await admitted(ledger, tokens=5) for _ in range(3)] == [True, True, False]

    played(test)


def test_a14_what_was_used_meanwhile_counts_later() -> None:
    async def test() -> None:
        for when in ("open", "slice"):
            shared = Shared(**lost(when_store_lost=when))
            shared.stores[0].lost = True
            for _ in range(3):
                with await reserve(shared.one, tokens=300, record=record_of(300)):
                    pass
            assert shared.one.shared.lost
            shared.stores[0].lost = False
            await asyncio.sleep(1.0)
            assert not shared.one.shared.lost
            assert not await admitted(shared.one, tokens=101)
            assert await admitted(shared.one, tokens=100)
            await shared.at_rest()

    played(test)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("outage_s", [0.3, 20.0, 100.0])
def test_a14_a_store_that_comes_and_goes_admits_no_more_than_one_that_stays(count: int, outage_s: float) -> None:
    """Of an organisation that all workers hear of all the time."""

    async def test() -> None:
        shared = Shared(count, **acme(requests_per_minute=60))
        times: list[float] = []
        for step in range(1_000):
            if step in (100, 500):
                for store in shared.stores:
                    store.lost = True
            began_s = 0.25 * (100 if step < 500 else 500)
            if step > 100 and 0.25 * step - began_s > outage_s:
                for store in shared.stores:
                    store.lost = False
            times += [shared.clock.monotonic() for ledger in shared.ledgers if await admitted(ledger)]
            await asyncio.sleep(0.25)
        assert max(sum(at_s - 60.0 < other <= at_s for other in times) for at_s in times) <= 60
        assert len(times) >= 150, "of 250 s"

    played(test)


def test_a_stall_of_this_process_is_not_held_against_the_store() -> None:
    async def test() -> None:
        shared = Shared(**acme(requests_per_minute=60))
        store = shared.stores[0]
        for stalls, lost in ((1, False), (2, False), (3, True)):
            store.stalls = stalls
            assert await admitted(shared.one)
            assert shared.one.shared.lost is lost

    played(test)


def test_a14_corrections_wait_until_the_store_is_back() -> None:
    async def test() -> None:
        shared = Shared(**acme(tokens_per_day=1_000))
        with await reserve(shared.one, tokens=1_000, record=record_of(10)):
            shared.stores[0].lost = True
        await asyncio.sleep(5.0)
        assert shared.one.shared.lost
        shared.stores[0].lost = False
        await asyncio.sleep(0.5)
        assert await admitted(shared.one, tokens=990)
        await shared.at_rest()

    played(test)


def test_a14_closed_is_refused() -> None:
    async def test() -> None:
        shared = Shared(**lost(when_store_lost="closed"))
        assert await admitted(shared.one)
        shared.stores[0].lost = True
        with pytest.raises(LimitsUnavailable, match="organisation 'acme' is set to be refused") as hit:
            for _ in range(20):
                await admitted(shared.one)
                await asyncio.sleep(0.1)
        assert hit.value.retry_after_s == 1.0
        assert shared.one.refused["acme", "limits_unavailable"] == 1

    played(test)


# Memory


def test_100000_keys_that_come_once_are_forgotten() -> None:
    async def test() -> None:
        shared = Shared(limits=[{"per": ["key"], "requests_per_minute": 5, "parallel": 2}])
        most = 0
        for number in range(20_000):
            with await reserve(shared.one, Caller(f"key-{number}", "acme")):
                pass
            most = max(most, len(shared.one.shared.stocks))
            await asyncio.sleep(0.001)
        assert most < 2 * 2 * 3_000, "those of the last seconds"
        assert len(shared.one.planner._plans) <= 10_000
        await shared.at_rest()
        assert not shared.one.shared.stocks

    played(test)


def test_keys_that_are_refused_for_another_limit_are_forgotten_too() -> None:
    async def test() -> None:
        shared = Shared(limits=[{"requests_per_day": 1}, {"per": ["key"], "requests_per_minute": 5}])
        found = [await admitted(shared.one, caller=Caller(f"key-{number}", "acme")) for number in range(50)]
        assert found == [True] + [False] * 49
        await shared.at_rest()
        assert not shared.one.shared.stocks

    played(test)


def test_what_nothing_limits_costs_nothing() -> None:
    async def test() -> None:
        shared = Shared()
        plan = shared.one.plan(ALICE, "m")
        assert plan.is_free and plan.lines == ()
        charge = await shared.one.reserve(plan, NOTHING, record_of())
        with charge:
            charge.settle()
        assert charge.header_lines == b""
        assert charge is await shared.one.reserve(plan, NOTHING, record_of())
        assert not shared.one.shared.stocks

    played(test)


async def test_whatever_the_store_does_the_next_call_finds_the_exchange_at_work() -> None:
    clock = RealClock()
    store = LocalStore(LocalCounts(clock))
    exchange = Exchange(_Odd(store), clock)
    stock = exchange.stock(Meter("m", 10, Span.MINUTE))
    begun = exchange._task
    assert begun is not None
    await exchange.lease([(stock, 1)])
    with pytest.raises(ZeroDivisionError):
        await begun
    assert await exchange.lease([(stock, 1)])
    assert stock.free == 1
    await exchange.aclose()


class _Odd:
    """Fails once, in a way that no store should."""

    def __init__(self, store: LocalStore) -> None:
        self.change, self.beat, self.aclose = store.change, store.beat, store.aclose
        self._takes = [self._fail, store.take, store.take]

    async def take(self, wants: Sequence[Want]) -> list[Grant]:
        return await self._takes.pop(0)(wants)

    async def _fail(self, wants: Sequence[Want]) -> list[Grant]:
        raise ZeroDivisionError
