"""The same money once more, from the records and the prices that are kept with them (A07)."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, func, select

from gateway.database import Database
from gateway.prices import Price, cost
from gateway.record import Usage
from gateway.usage.record import EXACT, plain
from gateway.usage.report import Query, day_text, see_one_moment, sum_of
from gateway.usage.store import kept_since
from gateway.usage.tables import usage, usage_days, usage_prices

WITHIN_S = 3600.0
NAMED = 100
"""Ids that are named of one kind; all are counted."""
_ROWS = 2_000


class Named(BaseModel):
    """Calls that something is to be said of: how many, and the ids of the first ones."""

    model_config = ConfigDict(frozen=True)

    calls: int = 0
    ids: list[str] = []


class Recomputed(BaseModel):
    """usd: as the reports sum it. recomputed_usd: from tokens and prices, call by call.

    calls:       whose records are there. missing: those that were summed, and whose records are gone.
    since:       records of days before were deleted as the configuration says, and are left out here.
    wrong:       calls that cost something else than their records say.
    not_kept:    calls whose price is not kept, so that their records are taken at their word.
    other_versions: calls reckoned by other prices than today's, by the version of these.
    """

    model_config = ConfigDict(frozen=True)

    calls: int
    missing: int
    since: str | None
    usd: str
    recomputed_usd: str
    difference_usd: str
    version: str
    wrong: Named
    not_kept: Named
    other_versions: dict[str, Named]


class _Tally:
    """Counts calls of a kind."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._ids: dict[str, list[str]] = {}

    def add(self, kind: str, unique_id: str) -> None:
        self._calls[kind] += 1
        ids = self._ids.setdefault(kind, [])
        if len(ids) < NAMED:
            ids.append(unique_id)

    def named(self, kind: str) -> Named:
        return Named(calls=self._calls[kind], ids=self._ids.get(kind, []))

    def kinds(self) -> list[str]:
        return sorted(self._calls)


def recompute(database: Database, query: Query, version: str) -> Recomputed:
    """
    version: of today's prices.

    Raises:
        DatabaseGone: also if it takes longer than `WITHIN_S`.
    """
    with database.read(WITHIN_S) as connection:
        see_one_moment(connection)
        prices, since = _prices(connection), kept_since(connection)
        summed, stored = _summed(connection, query, since)
        calls, again, odd, versions = 0, Decimal(0), _Tally(), _Tally()
        rows = connection.execution_options(yield_per=_ROWS).execute(
            query.narrowed(select(usage), usage).where(usage.c.day >= since)
        )
        for row in rows:
            calls += 1
            usd, kind = _again(row, prices)
            again = EXACT.add(again, usd)
            if kind:
                odd.add(kind, row.id)
            if row.price_version and row.price_version != version:
                versions.add(row.price_version, row.id)
    return Recomputed(
        calls=calls,
        missing=summed - calls,
        since=day_text(since) if since else None,
        usd=plain(stored),
        recomputed_usd=plain(again),
        difference_usd=plain(EXACT.subtract(again, stored)),
        version=version,
        wrong=odd.named("wrong"),
        not_kept=odd.named("not_kept"),
        other_versions={kind: versions.named(kind) for kind in versions.kinds()},
    )


def _summed(connection: Connection, query: Query, since: int) -> tuple[int, Decimal]:
    """Calls and money, as the reports sum them."""
    names = ("calls", "nano_usd", "atto_usd")
    sums = query.narrowed(select(*(func.coalesce(func.sum(usage_days.c[name]), 0) for name in names)))
    calls, nano, atto = map(int, connection.execute(sums.where(usage_days.c.day >= since)).one())
    return calls, sum_of(nano, atto)


def _prices(connection: Connection) -> dict[tuple[str, str], Price]:
    rows = connection.execute(select(usage_prices))
    return {(row.version, row.model): msgspec.json.decode(row.price, type=Price) for row in rows}


def _again(row: Any, prices: dict[tuple[str, str], Price]) -> tuple[Decimal, str]:
    """What the call of a row cost, and what is odd about it."""
    told = Decimal(row.usd or 0)
    if not row.price_version or not row.usd:
        return Decimal(0), "wrong" if told else ""
    price = prices.get((row.price_version, row.engine_model))
    if price is None:
        return told, "not_kept"
    usd = cost(
        price,
        Usage(
            prompt_tokens=row.prompt_tokens,
            completion_tokens=row.completion_tokens,
            cached_tokens=row.cached_tokens,
            reasoning_tokens=row.reasoning_tokens,
            cache_write_tokens=row.cache_write_tokens,
        ),
    )
    return usd, "" if usd == told else "wrong"
