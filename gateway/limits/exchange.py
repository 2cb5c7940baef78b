"""A worker's dealings with the store of the limits: one at a time, whatever calls wait for, in the background.

Calls spend what has been leased before. One that lacks something waits for the next exchange, which leases for all
that wait; what is not needed goes back within a few hundredths of a second, or a tenth while there is plenty.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from gateway.clock import Clock
from gateway.limits.lease import Stock
from gateway.limits.seam import Change, Grant, Meter, Span, Store, StoreLost, Want

logger = logging.getLogger(__name__)

TICK_S: Final = 0.02
"""Between two looks at what lies unspent. Corrections that somebody may wait for wait for one at most."""
ENOUGH: Final = 0.75
"""Of what a busy meter ought to have at hand; less is filled up whenever the store is asked for something else."""
BELIEF_S: Final = 0.05
"""How long it is believed that nothing is left."""
CALM_S: Final = 0.1
"""How long corrections wait instead while there is plenty of what they correct."""
PLENTY: Final = 0.1
"""Of a limit, what nobody has leased."""
BEAT_S: Final = 1.0
PROBE_S: Final = 0.25
"""Between two attempts to reach a store that is lost."""
FORGET_S: Final = 2.0
"""Meters that nobody has met for so long take up no memory here."""
MEET_S: Final = 1.0
"""Longest that the first connection is waited for."""
REST_S: Final = 0.25
"""Between two looks while there is nothing to look at but the clock."""
MINUTE_S: Final = 60.0
PART_S: Final = 5.0
"""What was used of a minute's limit is remembered by parts of so long."""
MAX_OWED: Final = 100_000
"""Corrections kept for a store that is lost."""
LATE: Final = 1.5
"""An answer that was waited for so many times as long as it may take: the clock of this process stood still."""
EXCUSES: Final = 2
"""In a row."""
QUIET_S: Final = 1.0
"""Between two log lines about the store."""

PROBE: Final = Meter("probe", 1, Span.NOW)


class Bill:
    """What was used of a meter and the store does not know: of a minute, no more than that counts of it."""

    __slots__ = ("_last_s", "_parts", "_span")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._parts: deque[tuple[float, int]] = deque()
        self._last_s = 0.0

    def add(self, units: int, now_s: float) -> None:
        if self._parts and (self._span is not Span.MINUTE or now_s < self._last_s + PART_S):
            _, known = self._parts.pop()
            self._parts.append((now_s, known + units))
        else:
            self._last_s = now_s
            self._parts.append((now_s, units))
        while self._span is Span.MINUTE and self._parts[0][0] < now_s - MINUTE_S:
            self._parts.popleft()

    def units(self, now_s: float) -> int:
        if self._span is not Span.MINUTE:
            return sum(units for _, units in self._parts)
        return sum(units for at_s, units in self._parts if at_s >= now_s - MINUTE_S)


class Exchange:
    """What a worker has leased of all meters, and the task that leases and gives back, while that is of use.

    patience_s: longest that a call waits here. workers: how many there are in all gateways, as far as is known.
    """

    def __init__(
        self, store: Store, clock: Clock, *, patience_s: float = 0.05, workers: Callable[[], int] = lambda: 1
    ) -> None:
        self.stocks: dict[str, Stock] = {}
        self.lost = False
        """Whether the store does not answer. Nobody waits for it then."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called when it is lost."""
        self._store = store
        self._clock = clock
        self._patience_s = patience_s
        self._workers = workers
        self._awake: list[Stock] = []
        self._asleep: deque[Stock] = deque()
        self._present: dict[str, Stock] = {}
        """Those of which the store counts something as in flight here."""
        self._lacking: dict[str, Stock] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._owed: dict[tuple[str, int], Change] = {}
        self._pressing = False
        """Whether somebody may be waiting for what these bring."""
        self._bills: dict[Meter, Bill] = {}
        self._excused = 0
        self._number = 0
        self._tick_s = self._beat_s = self._probe_s = self._said_s = self._calm_s = 0.0
        self._kick = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        held = [stock for stock in self.stocks.values() if stock.free or stock.taken]
        return f"<Exchange{' lost' if self.lost else ''} {held} owed={len(self._owed)} waiting={len(self._waiters)}>"

    @property
    def leased(self) -> int:
        """Meters of which something is leased here and not spent."""
        return sum(1 for stock in self.stocks.values() if stock.free)

    async def meet(self) -> None:
        """Connect to the store, so that no call has to wait for that. Takes a moment at most, even if it is away."""
        by_s = self._clock.monotonic() + MEET_S
        while True:
            try:
                await self._store.beat({PROBE: 0})
                return
            except StoreLost as error:
                if self._clock.monotonic() >= by_s:
                    self._lose(error, [])
                    return
            await self._clock.sleep(TICK_S)

    def stock(self, meter: Meter) -> Stock:
        stock = self.stocks.get(meter.key)
        if stock is None:
            stock = self.stocks[meter.key] = Stock(meter)
            self.wake(stock)  # so that it is forgotten, whatever becomes of the call
        elif stock.meter is not meter:
            stock.meter = meter  # its limit may have changed
        return stock

    def wake(self, stock: Stock) -> None:
        """It was used: have an eye on it."""
        stock.awake = True
        self._awake.append(stock)
        self._start()

    def fetch(self, stock: Stock) -> None:
        """More than `low` ought to be at hand: have it fetched; nobody waits for it."""
        if not self.lost:
            stock.low = 0
            self._lacking[stock.meter.key] = stock
            self._kick.set()

    async def lease(self, needs: Sequence[tuple[Stock, int]], times: int = 1) -> bool:
        """Wait until the store has been asked for what is needed; False: it did not answer in time.

        times: so many times as much is asked for, and taken if there is less.
        """
        for stock, need in needs:
            stock.wanted += need * times
            stock.least = min(stock.least or need, need)
            self._lacking[stock.meter.key] = stock
            if not stock.awake:
                self.wake(stock)
        self._start()  # whatever ended the task before
        number, began_s = self._number, self._clock.monotonic()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._kick.set()
        try:
            async with asyncio.timeout(self._patience_s):
                await waiter
        except TimeoutError:
            return self._was_late(began_s)
        finally:
            if number == self._number:  # nobody has asked for it yet, and it is needed no more or asked for anew
                for stock, need in needs:
                    stock.wanted -= need * times
            if waiter.cancelled():
                self._waiters = [other for other in self._waiters if other is not waiter]
        return not self.lost

    def owe(self, meter: Meter, slot: int, units: int) -> None:
        """More was used than was leased (positive), or less: the store is told at the next tick, or soon."""
        stock = self.stocks.get(meter.key)
        if meter.span is Span.NOW or stock is None or stock.left < meter.limit * PLENTY:
            self._pressing = True
        key = (meter.key, slot)
        known = self._owed.get(key)
        if known is not None:
            self._owed[key] = Change(meter, slot, known.units + units)
        elif len(self._owed) < MAX_OWED:
            self._owed[key] = Change(meter, slot, units)

    def bill(self, meter: Meter, units: int) -> None:
        """So much was used and the store does not know: it is told at once, or when it is back."""
        bill = self._bills.get(meter)
        if bill is None:
            if len(self._bills) >= MAX_OWED:
                return
            bill = self._bills[meter] = Bill(meter.span)
        bill.add(units, self._clock.monotonic())
        if not self.lost:
            self._start()
            self._kick.set()

    def give_back(self, stock: Stock, slot: int, units: int, now_s: float) -> None:
        """A call did not need them."""
        if not stock.put_back(slot, units, now_s):
            self.owe(stock.meter, slot, -units)
        if not stock.awake:
            self.wake(stock)
        if stock.meter.span is Span.NOW and stock.free > stock.target:
            self._shed(stock, stock.free - stock.target)  # others may be waiting for just this place
            self._kick.set()

    async def aclose(self) -> None:
        """Give everything back. Takes a moment at most."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for stock in self.stocks.values():
            self._shed(stock, stock.free)
        if self._owed and not self.lost:
            with contextlib.suppress(StoreLost):
                await self._store.change(self._drained())
        self.stocks.clear()
        await self._store.aclose()

    # The task

    def _start(self) -> None:
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                now_s = self._clock.monotonic()
                if now_s >= self._tick_s:
                    self._tick(now_s)
                await self._trade(now_s)
                await asyncio.sleep(0)  # who waited spends what it was given before that counts as unspent
                if self._is_idle():
                    break
                timer = loop.call_later(TICK_S if self._awake or self._owed else REST_S, self._kick.set)
                await self._kick.wait()
                timer.cancel()
                self._kick.clear()
        finally:
            self._task = None
            self._release()

    def _is_idle(self) -> bool:
        if self.lost or self._kick.is_set():
            return False
        return not (self._awake or self._asleep or self._present or self._lacking or self._owed or self._bills)

    def _tick(self, now_s: float) -> None:
        self._tick_s = now_s + TICK_S
        workers = self._workers()
        awake, self._awake = self._awake, []
        for stock in awake:
            if now_s >= stock.until_s:
                self.expire(stock, now_s)
            stock.plan(workers)
            if stock.free > 2 * stock.target:
                self._shed(stock, stock.free - stock.target)
            elif stock.fresh(now_s + 2 * TICK_S) < stock.low and now_s >= stock.known_until_s:
                self.fetch(stock)
            if stock.free or stock.target or stock.use_rate > 0.1:
                self._awake.append(stock)
            else:
                stock.awake = False
                stock.slept_s = now_s
                self._asleep.append(stock)
        self._forget(now_s)

    def _forget(self, now_s: float) -> None:
        asleep = self._asleep
        while asleep and (asleep[0].awake or now_s >= asleep[0].slept_s + FORGET_S):
            stock = asleep.popleft()
            if not stock.awake and not stock.taken and now_s >= stock.slept_s + FORGET_S:
                self.stocks.pop(stock.meter.key, None)

    def expire(self, stock: Stock, now_s: float) -> None:
        """Give back what may be spent no longer."""
        for slot, units in stock.expire(now_s):
            self.owe(stock.meter, slot, -units)

    def _shed(self, stock: Stock, units: int) -> None:
        for slot, part in stock.shed(units):
            self.owe(stock.meter, slot, -part)

    async def _trade(self, now_s: float) -> None:
        """Once with the store: corrections first, because what they bring may be what somebody waits for."""
        changes: list[Change] = []
        waiters, self._waiters = self._waiters, []
        asked_s = now_s
        try:
            if self.lost and not await self._is_back(now_s):
                return
            if waiters or self._pressing or now_s >= self._calm_s:
                self._calm_s = now_s + CALM_S
                changes = self._drained()
            wants = self._wants()
            bills, self._bills = [Want(meter, 1, bill.units(now_s)) for meter, bill in self._bills.items()], {}
            bills = [bill for bill in bills if bill.most]
            if changes:
                await self._store.change(changes)
                changes = []
            asked_s = self._clock.monotonic()
            if wants or bills:
                grants = await self._store.take(bills + [want for _, want in wants])
                for (stock, want), grant in zip(wants, grants[len(bills) :], strict=True):
                    self._received(stock, want, grant)
            if self._present and now_s >= self._beat_s:
                self._beat_s, asked_s = now_s + BEAT_S, self._clock.monotonic()
                await self._store.beat(self._held())
            self._excused = 0
        except StoreLost as error:
            if not self.lost and self._excused < EXCUSES and self._was_late(asked_s):
                self._excused += 1
                self._keep(changes)
            else:
                self._lose(error, changes)
        finally:
            _release(waiters)

    def _drained(self) -> list[Change]:
        changes, self._owed = [change for change in self._owed.values() if change.units], {}
        self._pressing = False
        for meter, _, units in changes:
            stock = self.stocks.get(meter.key)
            if stock is not None:
                stock.left = min(meter.limit, max(0, stock.left - units))
                if units < 0:
                    stock.known_until_s = 0.0
            if meter.span is Span.NOW and meter.key in self._present:
                self._count(self._present[meter.key], units)
        return changes

    def _wants(self) -> list[tuple[Stock, Want]]:
        """What is to be leased: for those that wait, and beyond that what is to be at hand."""
        self._number += 1
        lacking, self._lacking = self._lacking, {}
        found: list[tuple[Stock, Want]] = []
        for stock in self._awake:  # one question for all that will be asked for soon
            if stock.free < stock.target * ENOUGH and stock.meter.key not in lacking:
                lacking[stock.meter.key] = stock
        for stock in lacking.values():
            most = stock.wanted + stock.target - stock.free
            if most > 0:
                least = max(1, stock.least - stock.free) if stock.wanted else 1
                found.append((stock, Want(stock.meter, min(least, most), most)))
            stock.wanted = stock.least = 0
        return found

    def _received(self, stock: Stock, want: Want, grant: Grant) -> None:
        now_s = self._clock.monotonic()
        until_s = now_s + grant.resets_in_s
        stock.left = grant.left
        stock.known_until_s = 0.0 if grant.amount >= want.most else now_s + BELIEF_S
        if not grant.amount:
            stock.retry_at_s = until_s
            stock.resets_at_s = max(stock.resets_at_s, until_s)
            return
        stock.resets_at_s = until_s
        stock.add(grant)
        if not stock.awake:
            self.wake(stock)
        if stock.meter.span is Span.NOW:
            self._present[stock.meter.key] = stock
            self._count(stock, grant.amount)

    def _count(self, stock: Stock, units: int) -> None:
        """Of a meter of what is in flight: as the store has it."""
        stock.taken += units
        if stock.taken <= 0:
            self._present.pop(stock.meter.key, None)

    def _held(self) -> dict[Meter, int]:
        return {stock.meter: stock.taken for stock in self._present.values()}

    async def _is_back(self, now_s: float) -> bool:
        """Whether a store that was lost answers again; asked now and then."""
        if now_s < self._probe_s:
            return False
        self._probe_s = now_s + PROBE_S
        await self._store.beat(self._held() or {PROBE: 0})
        self._beat_s = now_s + BEAT_S
        self.lost = False
        logger.warning("limits: the store answers again")
        return True

    def _lose(self, error: StoreLost, changes: Sequence[Change]) -> None:
        """changes: those that the store did not take."""
        now_s = self._clock.monotonic()
        self._probe_s = now_s + PROBE_S
        if not self.lost:
            self.lost = True
            for stock in self._awake:
                if stock.meter.span is not Span.NOW:
                    self._shed(stock, stock.free)
            if now_s >= self._said_s + QUIET_S:
                self._said_s = now_s
                logger.warning("limits: %s; until it answers again each organisation's when_store_lost decides", error)
            self.on_lost()
        self._keep(changes)
        self._release()
        self._start()

    def _keep(self, changes: Sequence[Change]) -> None:
        """For the next attempt. Of what is in flight the store is told at the next beat."""
        for meter, slot, units in changes:
            if meter.span is not Span.NOW:
                self.owe(meter, slot, units)

    def _was_late(self, began_s: float) -> bool:
        """Whether it was this process that stood still while an answer was waited for: it says nothing of the store."""
        return self._clock.monotonic() - began_s > self._patience_s * LATE

    def _release(self) -> None:
        waiters, self._waiters = self._waiters, []
        _release(waiters)


def _release(waiters: Sequence[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
