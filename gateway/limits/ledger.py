"""Reserves what a call may use, of all limits that it meets or of none, and settles it to what it used."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self

from gateway.admission import NO_CHARGE
from gateway.admission import Charge as AnyCharge
from gateway.clock import Clock
from gateway.errors import ApiError
from gateway.identity import Caller
from gateway.limits.cost import Cost
from gateway.limits.exchange import Exchange
from gateway.limits.headers import header_lines, remaining
from gateway.limits.lease import Draw, Stock
from gateway.limits.plan import CLOSED, OPEN, Line, Plan, Planner
from gateway.limits.refusals import over_limit, without_store
from gateway.limits.seam import Meter, Span
from gateway.limits.used import Bookkeeper
from gateway.record import Record

logger = logging.getLogger(__name__)

ASK_AGAIN_S: Final = 0.025
"""A refusal is asked for twice: what others have just given back may be on its way."""
MAX_ROUNDS: Final = 16
Needs = tuple[int, int, int, int]
"""Units that a call reserves, by unit."""


class Charge:
    """What one call has reserved. Leaving its `with` block settles it by the record, on success, error, cancellation.

    header_lines: what every answer to the call says of the limits.
    """

    __slots__ = ("_draws", "_exchange", "_ledger", "_plan", "_record", "header_lines")

    def __init__(
        self,
        ledger: LimitLedger,
        exchange: Exchange | None,
        plan: Plan,
        record: Record,
        draws: list[Draw],
        header_lines: bytes,
    ) -> None:
        self._ledger: LimitLedger | None = ledger
        self._exchange = exchange
        self._plan = plan
        self._record = record
        self._draws = draws
        self.header_lines = header_lines

    def __repr__(self) -> str:
        return f"<Charge {self._plan.tenant}{' settled' if self._ledger is None else ''} {len(self._draws)} draws>"

    def settle(self) -> None:
        """Replace the reservation by what was really used. Idempotent."""
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.settle(self._plan, self._exchange, self._draws, self._record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.settle()


class LimitLedger:
    """One for a worker. Implements `gateway.admission.Ledger`.

    shared: where all workers and gateways count together. alone: where this worker counts while that is lost.
    workers: how many there are in all gateways, as far as is known.
    """

    def __init__(
        self,
        planner: Planner,
        books: Bookkeeper,
        shared: Exchange,
        alone: Exchange,
        clock: Clock,
        workers: Callable[[], int] = lambda: 1,
    ) -> None:
        self.planner = planner
        self.shared = shared
        self.alone = alone
        self.refused: Counter[tuple[str, str]] = Counter()
        """Calls refused, by tenant and code."""
        self.past_soft: Counter[str] = Counter()
        """Calls admitted past a soft limit, by tenant."""
        self._books = books
        self._clock = clock
        self._workers = workers
        self._open = 0
        shared.on_lost = self._begin_alone
        self._told: set[str] = set()
        """Meters of which it was told that they are past their soft limits."""

    def __repr__(self) -> str:
        return f"<LimitLedger in_flight={self._open}>"

    def plan(self, caller: Caller, deployment: str) -> Plan:
        return self.planner.plan(caller, deployment)

    async def reserve(self, plan: Plan, cost: Cost, record: Record) -> AnyCharge:
        """Reserve all that the call may use, or nothing. Waits for no network where enough has been leased before.

        record: of the call; it is settled by what this says in the end.

        Raises:
            RateLimited: it would go over a limit.
            LimitsUnavailable: nobody can count, and the organisation wants nothing admitted then.
        """
        charge = self.reserve_now(plan, cost, record)
        if charge is not None:
            return charge
        needs = _needs(cost)
        if self.shared.lost:
            return await self._without_store(plan, needs, record)
        return await self._in_time(self.shared, plan, plan.lines, needs, record)

    def reserve_now(self, plan: Plan, cost: Cost, record: Record) -> AnyCharge | None:
        if not plan.lines:
            return NO_CHARGE
        if self.shared.lost:
            return None
        stocks: list[Stock] = []
        needs = _needs(cost)
        if not self._look(self.shared, plan.lines, needs, stocks):
            return None
        return self._spend(self.shared, plan, plan.lines, stocks, needs, record)

    def settle(self, plan: Plan, exchange: Exchange | None, draws: list[Draw], record: Record) -> None:
        """Of one charge; called by it, once."""
        self._open -= 1
        books = self._books
        tokens = books.tokens(record) if plan.counts_tokens else 0
        used = (1, tokens, books.nano_usd(record) if plan.counts_money else 0, 0)
        if exchange is not self.shared:
            for line in plan.lines:
                if used[line.unit]:
                    self.shared.bill(line.meter, used[line.unit])
        if exchange is not None:
            now_s = self._clock.monotonic()
            for index, line in enumerate(plan.lines):
                _settle_draw(exchange, draws[index], used[line.unit], now_s)

    async def start(self) -> None:
        """Connect to the store. Takes a moment at most, even if it is away."""
        await self.shared.meet()

    async def aclose(self) -> None:
        """Give back what is leased. Takes a moment at most."""
        await self.alone.aclose()
        await self.shared.aclose()

    # With the store

    def _look(self, exchange: Exchange, lines: Iterable[Line], needs: Needs, stocks: list[Stock]) -> bool:
        """Whether enough of everything is at hand. `stocks`: is given that of each line."""
        now_s = self._clock.monotonic()
        enough = True
        known = exchange.stocks
        for line in lines:
            meter = line.meter
            stock = known.get(meter.key)
            if stock is None or stock.meter is not meter:
                stock = exchange.stock(meter)
            if now_s >= stock.until_s:
                exchange.expire(stock, now_s)
            if stock.free < needs[line.unit]:
                enough = False
            stocks.append(stock)
        return enough

    def _spend(
        self, exchange: Exchange, plan: Plan, lines: tuple[Line, ...], stocks: list[Stock], needs: Needs, record: Record
    ) -> Charge:
        """No await from the look to here: either all is spent or nothing."""
        draws: list[Draw] = []
        for index, line in enumerate(lines):
            stock = stocks[index]
            if not stock.awake:
                exchange.wake(stock)
            draws.append(stock.draw(needs[line.unit]))
            if stock.free < stock.low:
                exchange.fetch(stock)
            if line.soft:
                self._watch_soft(plan, line, stock)
        self._open += 1
        told = header_lines(lines, stocks, self._clock.monotonic())
        return Charge(self, exchange, plan, record, draws, told)

    async def _in_time(
        self, exchange: Exchange, plan: Plan, lines: tuple[Line, ...], needs: Needs, record: Record
    ) -> AnyCharge:
        """Ask the store for what is lacking, and for what it refuses once more."""
        asked, again_at_s = 0, 0.0
        while True:
            stocks: list[Stock] = []
            if self._look(exchange, lines, needs, stocks):
                return self._spend(exchange, plan, lines, stocks, needs, record)
            now_s = self._clock.monotonic()
            refused = _refused(lines, stocks, needs, now_s, sure=asked >= MAX_ROUNDS)
            if refused and (not asked or again_at_s or asked >= MAX_ROUNDS or _never(refused)):
                raise self._refusal(plan, lines, stocks, refused, now_s)
            if refused:
                again_at_s = now_s + ASK_AGAIN_S
                await self._clock.sleep(ASK_AGAIN_S)
            asked += 1
            wants = [(stock, needs[line.unit]) for line, stock in zip(lines, stocks, strict=True)]
            lacking = [(stock, need) for stock, need in wants if stock.free < need]
            # Others may spend what this call has waited for: each time it has more leased, so that some is left for it.
            if not await exchange.lease(lacking, asked) and exchange is self.shared:
                return await self._without_store(plan, needs, record)

    def _refusal(
        self,
        plan: Plan,
        lines: tuple[Line, ...],
        stocks: list[Stock],
        refused: list[tuple[Line, Stock, int]],
        now_s: float,
    ) -> ApiError:
        """By the limit that takes longest to wait for."""
        line, stock, need = max(refused, key=lambda one: (one[2] > one[0].meter.limit, one[1].retry_at_s))
        error = over_limit(line, stock, need, now_s, header_lines(lines, stocks, now_s))
        self.refused[plan.tenant, error.code] += 1
        return error

    def _watch_soft(self, plan: Plan, line: Line, stock: Stock) -> None:
        """Tell of it once when it is passed, and count the calls past it."""
        key = stock.meter.key
        if stock.meter.limit - remaining(stock) <= line.soft:
            self._told.discard(key)
            return
        self.past_soft[plan.tenant] += 1
        if key not in self._told:
            self._told.add(key)
            logger.warning("limits: %s is past its soft limit (%s_soft)", line.whose, line.setting)

    # Without

    async def _without_store(self, plan: Plan, needs: Needs, record: Record) -> AnyCharge:
        """As the organisation wants it: everything, nothing, or this worker's share of what it may."""
        if plan.when_store_lost == CLOSED:
            error = without_store(plan)
            self.refused[plan.tenant, error.code] += 1
            raise error
        if plan.when_store_lost == OPEN:
            self._open += 1
            return Charge(self, None, plan, record, [], b"")
        lines = tuple(self._share(line) for line in plan.lines)
        stocks: list[Stock] = []
        if self._look(self.alone, lines, needs, stocks):
            return self._spend(self.alone, plan, lines, stocks, needs, record)
        return await self._in_time(self.alone, plan, lines, needs, record)

    def _begin_alone(self) -> None:
        """What was used of late counts in this worker's share too: else a hiccup of the store would double limits."""
        workers = max(1, self._workers())
        for stock in self.shared.stocks.values():
            used = stock.meter.limit - remaining(stock)
            if used > 0 and stock.meter.span is not Span.NOW and stock.resets_at_s:
                self.alone.bill(self._part(stock.meter), -(-used // workers))

    def _share(self, line: Line) -> Line:
        """This worker's part of a limit."""
        return Line(self._part(line.meter), line.unit, line.soft // max(1, self._workers()), line.setting, line.whose)

    def _part(self, meter: Meter) -> Meter:
        return Meter(meter.key, max(1, meter.limit // max(1, self._workers())), meter.span)


def _needs(cost: Cost) -> Needs:
    """Of each unit at least one: nothing drawn could not be settled to something."""
    return 1, cost.prompt_tokens + cost.output_tokens or 1, cost.nano_usd or 1, 1


def _settle_draw(exchange: Exchange, draw: Draw, used: int, now_s: float) -> None:
    """Give back what was reserved and not used; where more was used, say so."""
    stock = draw.stock
    left = used - draw.units
    if draw.rest is None:
        if left < 0:
            exchange.give_back(stock, draw.slot, -left, now_s)
        elif left:
            exchange.owe(stock.meter, draw.slot, left)
        return
    parts = [(draw.slot, draw.units), *draw.rest]
    for slot, units in parts:
        if units > used:
            exchange.give_back(stock, slot, units - used, now_s)
        used = max(0, used - units)
    if used:
        exchange.owe(stock.meter, parts[-1][0], used)


def _refused(
    lines: tuple[Line, ...], stocks: list[Stock], needs: Needs, now_s: float, *, sure: bool
) -> list[tuple[Line, Stock, int]]:
    """Limits of which it is known that they leave no room; sure: all that lack something."""
    found = []
    for line, stock in zip(lines, stocks, strict=True):
        need = needs[line.unit]
        short = need - stock.free
        known = sure or (now_s < stock.known_until_s and short > stock.left)
        if short > 0 and (known or need > line.meter.limit):
            found.append((line, stock, need))
    return found


def _never(refused: list[tuple[Line, Stock, int]]) -> bool:
    return any(need > line.meter.limit for line, _, need in refused)
