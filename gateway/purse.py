"""What may be spent in an hour: exact, and counted when it is promised, not when the bill comes."""

from __future__ import annotations

from collections import deque
from decimal import Decimal

from gateway.prices import Price, cost
from gateway.record import Usage

HOUR_S = 3600.0
MINUTE_S = 60.0
_KEPT = int(HOUR_S / MINUTE_S)
"""Whole minutes that count besides the present one: so whatever was spent in the last hour counts for at least it."""
_ZERO = Decimal(0)
_NO_USAGE = Usage()


class Purse:
    """A sliding hour in one worker, by the minute. Every call takes the same small time, however much was spent.

    limit_usd: of any hour; None: there is no limit, and it only counts.
    """

    __slots__ = ("_minutes", "_total", "limit_usd")

    def __init__(self, limit_usd: Decimal | None) -> None:
        self.limit_usd = limit_usd
        self._minutes: deque[tuple[int, Decimal]] = deque()
        """Number of the minute and what it cost, the oldest first."""
        self._total = _ZERO

    def __repr__(self) -> str:
        return f"<Purse spent={self._total} limit={self.limit_usd}>"

    def spent(self, now_s: float) -> Decimal:
        """In the last hour, in USD, with what is promised."""
        oldest = int(now_s // MINUTE_S) - _KEPT
        minutes = self._minutes
        while minutes and minutes[0][0] < oldest:
            self._total -= minutes.popleft()[1]
        return self._total

    def fits(self, usd: Decimal, now_s: float) -> bool:
        """Whether that much may be spent now."""
        return self.limit_usd is None or self.spent(now_s) + usd <= self.limit_usd

    def promise(self, usd: Decimal, price: Price, now_s: float) -> Bill:
        """Spend what a request is expected to cost, whether it fits or not, until its bill is settled."""
        minute = int(now_s // MINUTE_S)
        self._add(minute, usd)
        return Bill(self, price, minute, usd)

    def correct(self, minute: int, usd: Decimal) -> None:
        """It was more by `usd`. What lies over an hour back is forgotten."""
        for index, (known, spent) in enumerate(self._minutes):
            if known == minute:
                self._minutes[index] = (minute, spent + usd)
                self._total += usd
                return

    def _add(self, minute: int, usd: Decimal) -> None:
        self._total += usd
        if self._minutes and self._minutes[-1][0] == minute:
            self._minutes[-1] = (minute, self._minutes[-1][1] + usd)
        else:
            self._minutes.append((minute, usd))


class Bill:
    """What one attempt costs: an expectation until it is settled, once."""

    __slots__ = ("_minute", "_purse", "_settled", "expected_usd", "price")

    def __init__(self, purse: Purse, price: Price, minute: int, expected_usd: Decimal) -> None:
        self._purse = purse
        self._minute = minute
        self._settled = False
        self.price = price
        self.expected_usd = expected_usd

    def __repr__(self) -> str:
        return f"<Bill expected={self.expected_usd}{' settled' if self._settled else ''}>"

    def settle(self, usage: Usage = _NO_USAGE) -> None:
        """What was used in the end; by default nothing. Idempotent."""
        if not self._settled:
            self._settled = True
            self._purse.correct(self._minute, cost(self.price, usage) - self.expected_usd)
