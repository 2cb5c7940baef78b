"""Sums of what was used: exact, by whatever it is grouped by."""

from __future__ import annotations

import csv
import datetime
import enum
import io
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ColumnElement, Connection, Integer, Select, Table, cast, func, literal_column, select

from gateway.database import Database
from gateway.usage.record import EXACT, plain
from gateway.usage.tables import SUMMED, TOKENS, usage_days

WITHIN_S = 300.0
"""Longest that a report may take."""


class By(enum.StrEnum):
    """What a report may be grouped by. Teams and keys are told with the tenant whose they are."""

    DAY = "day"
    MONTH = "month"
    TENANT = "tenant"
    TEAM = "team"
    KEY = "key"
    DEPLOYMENT = "deployment"
    VARIANT = "variant"


_COLUMNS: dict[str, ColumnElement[Any]] = {
    "day": usage_days.c.day,
    # PostgreSQL groups by an expression only where it is the same to the letter, which parameters are not.
    "month": cast((usage_days.c.day - usage_days.c.day % literal_column("100")) / literal_column("100"), Integer),
    "tenant": usage_days.c.tenant,
    "team": usage_days.c.team,
    "key": usage_days.c.key_name,
    "key_id": usage_days.c.key_id,
    "deployment": usage_days.c.deployment,
    "variant": usage_days.c.variant,
}
_TOLD: dict[By, tuple[str, ...]] = {
    By.TEAM: ("tenant", "team"),
    By.KEY: ("tenant", "key", "key_id"),
    By.VARIANT: ("deployment", "variant"),
}
_SUMS = tuple(func.coalesce(func.sum(usage_days.c[name]), 0) for name in SUMMED)


@dataclass(frozen=True, slots=True)
class Query:
    """Whose calls, and from when.

    since, until: days in UTC, both included. What is None does not filter; an empty team means calls of none.
    """

    by: tuple[By, ...] = ()
    since: datetime.date | None = None
    until: datetime.date | None = None
    tenant: str | None = None
    team: str | None = None
    key: str | None = None
    deployment: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for by in self.by for name in _TOLD.get(by, (str(by),))))

    def narrowed(self, statement: Select[Any], table: Table = usage_days) -> Select[Any]:
        if self.since is not None:
            statement = statement.where(table.c.day >= number_of(self.since))
        if self.until is not None:
            statement = statement.where(table.c.day <= number_of(self.until))
        for column, wanted in (
            (table.c.tenant, self.tenant),
            (table.c.team, self.team),
            (table.c.key_name, self.key),
            (table.c.deployment, self.deployment),
        ):
            if wanted is not None:
                statement = statement.where(column == wanted)
        return statement


class Line(BaseModel):
    """Sums over one group. `usd` is exact; calls of models without a price are `unpriced` and not in it.

    refused: by the gateway, a limit or the engine. failed: no answer came, or not all of it, or the client hung up.
    """

    model_config = ConfigDict(frozen=True)

    day: str | None = None
    month: str | None = None
    tenant: str | None = None
    team: str | None = None
    key: str | None = None
    key_id: str | None = None
    deployment: str | None = None
    variant: str | None = None
    calls: int
    refused: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    estimated: int
    unpriced: int
    usd: str


class Report(BaseModel):
    """Lines in the order of what they are grouped by; `total` is over all of them."""

    model_config = ConfigDict(frozen=True)

    since: datetime.date | None = None
    until: datetime.date | None = None
    by: list[By]
    lines: list[Line]
    total: Line


def report(database: Database, query: Query, within_s: float = WITHIN_S) -> Report:
    """
    Raises:
        DatabaseGone: also if it takes longer than `within_s`.
    """
    with database.read(within_s) as connection:
        see_one_moment(connection)
        (total,) = _lines(connection, query, ())
        lines = _lines(connection, query, query.columns) if query.by else []
    return Report(since=query.since, until=query.until, by=list(query.by), lines=lines, total=total)


def csv_of(found: Report) -> str:
    """Lines as CSV (RFC 4180), with a head; without groups, the total."""
    lines = found.lines if found.by else [found.total]
    columns = Query(by=tuple(found.by)).columns
    names = [*columns, *(name for name in Line.model_fields if name not in _COLUMNS)]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([getattr(line, name) for name in names] for line in lines)
    return text.getvalue()


def number_of(day: datetime.date) -> int:
    return day.year * 10_000 + day.month * 100 + day.day


def see_one_moment(connection: Connection) -> None:
    """From now on what is read is what was there at the first query, whatever others write. At the very beginning."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")


def day_text(number: int) -> str:
    """YYYY-MM-DD of YYYYMMDD."""
    text = str(number)
    return f"{text[:4]}-{text[4:6]}-{text[6:]}"


def sum_of(nano: int, atto: int) -> Decimal:
    """US dollars, exactly, from sums of billionths and of billionths of these."""
    return EXACT.scaleb(Decimal(nano * 10**9 + atto), -18)


def _lines(connection: Connection, query: Query, columns: Sequence[str]) -> list[Line]:
    groups = [_COLUMNS[name].label(f"by_{name}") for name in columns]
    statement = query.narrowed(select(*groups, *_SUMS).select_from(usage_days))
    if groups:
        statement = statement.group_by(*groups).order_by(*groups)
    return [_line(columns, row) for row in connection.execute(statement)]


def _line(columns: Sequence[str], row: Sequence[Any]) -> Line:
    calls, fine, refused, *tokens, estimated, unpriced, nano, atto = map(int, row[len(columns) :])
    sums: dict[str, Any] = dict(zip(TOKENS, tokens, strict=True))
    sums |= {name: _shown(name, value) for name, value in zip(columns, row, strict=False)}
    return Line(
        calls=calls,
        refused=refused,
        failed=calls - fine - refused,
        estimated=estimated,
        unpriced=unpriced,
        usd=plain(sum_of(nano, atto)),
        **sums,
    )


def _shown(name: str, value: Any) -> str:
    if name == "day":
        return day_text(value)
    text = str(value)
    return f"{text[:4]}-{text[4:]}" if name == "month" else text
