"""Records as rows, each counted once in the sums of its day."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import ROUND_FLOOR, Decimal
from itertools import islice
from typing import Final, cast

import msgspec
from sqlalchemy import Connection, Table, select, text
from sqlalchemy.dialects import postgresql, sqlite

from gateway.database.schema import settings
from gateway.usage.frames import Item
from gateway.usage.record import EXACT, Tariff, UsageRecord
from gateway.usage.tables import GROUPED, SUMMED, TOKENS, usage, usage_days, usage_prices

BATCH: Final = 500
"""Rows of one statement."""
MAX_TEXT: Final = 128
_SINCE: Final = "usage_since"

Row = dict[str, object]


def store(connection: Connection, items: Iterable[Item]) -> None:
    """Insert what is not there yet, and add that to the sums."""
    rows: dict[str, Row] = {}
    prices: list[Row] = []
    for item in items:
        if isinstance(item, Tariff):
            price = msgspec.json.encode(item.price).decode()
            prices.append({"version": item.version, "model": _text(item.model), "price": price})
        else:
            rows[item.id] = row_of(item)
    put(connection, usage_prices, prices)
    fresh = _insert(connection, list(rows.values()))
    _add_up(connection, [rows[one] for one in fresh])


def put(connection: Connection, table: Table, rows: Sequence[Row], changes: Sequence[str] = ()) -> None:
    """Insert rows; of those whose primary key is there already, `changes` are updated."""
    statement = _inserting(connection)(table)
    if changes:
        updates = {name: statement.excluded[name] for name in changes}
        statement = statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=updates)
    else:
        statement = statement.on_conflict_do_nothing()
    for batch in _batches(rows):
        connection.execute(statement, batch)


def row_of(record: UsageRecord) -> Row:
    row: Row = {
        name: _text(value) if isinstance(value, str) else value
        for name, value in msgspec.structs.asdict(record).items()
    }
    row["day"] = day_of(record.at)
    return row


def parts_of(usd: str) -> tuple[int, int]:
    """Billionths of a US dollar, and billionths of these. What is smaller still is in the text alone."""
    nano = EXACT.scaleb(Decimal(usd or 0), 9)
    whole = nano.to_integral_value(ROUND_FLOOR)
    return int(whole), int(EXACT.scaleb(nano - whole, 9))


def day_of(at_s: float) -> int:
    """The day in UTC, as the number YYYYMMDD."""
    day = datetime.datetime.fromtimestamp(at_s, datetime.UTC)
    return day.year * 10_000 + day.month * 100 + day.day


def forget_before(connection: Connection, day: int) -> None:
    """Records of days before will be deleted, and from now on count as gone."""
    put(connection, settings, [{"name": _SINCE, "value": str(max(day, kept_since(connection)))}], changes=("value",))


def kept_since(connection: Connection) -> int:
    """The first day of which the records are there; 0: all are."""
    return int(connection.scalar(select(settings.c.value).where(settings.c.name == _SINCE)) or 0)


def _insert(connection: Connection, rows: Sequence[Row]) -> list[str]:
    """Returns the ids of those that were not there."""
    if connection.dialect.name == "postgresql":
        return _insert_columns(connection, rows)
    statement = sqlite.insert(usage).on_conflict_do_nothing().returning(usage.c.id)
    return [one for batch in _batches(rows) for one in connection.execute(statement, batch).scalars()]


def _insert_columns(connection: Connection, rows: Sequence[Row]) -> list[str]:
    """With a parameter for each column in place of each value: a tenth of the driver's time."""
    columns = {column.name: column.type.compile(connection.dialect) for column in usage.columns}
    values = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in columns.items())
    statement = text(
        f"INSERT INTO {usage.name} ({', '.join(columns)}) SELECT * FROM unnest({values})"  # noqa: S608 - no user's text
        " ON CONFLICT DO NOTHING RETURNING id"
    )
    found: list[str] = []
    for batch in _batches(rows):
        arrays = {name: [row[name] for row in batch] for name in columns}
        found += connection.execute(statement, arrays).scalars()
    return found


def _text(value: str) -> str:
    """As both databases take it: engines make up codes of errors, and issuers of tokens names."""
    if len(value) <= MAX_TEXT and value.isascii() and "\0" not in value:
        return value
    return value.encode(errors="replace").decode().replace("\0", "\ufffd")[:MAX_TEXT]


def _add_up(connection: Connection, fresh: Iterable[Row]) -> None:
    sums: dict[tuple[object, ...], list[int]] = {}
    for row in fresh:
        known = sums.setdefault(tuple(row[name] for name in GROUPED), [0] * len(SUMMED))
        for index, value in enumerate(_counts(row)):
            known[index] += value
    # In one order everywhere: two offices that wait for each other's rows would wait for ever.
    rows: list[Row] = [
        dict(zip((*GROUPED, *SUMMED), (*group, *sums[group]), strict=True)) for group in sorted(sums, key=repr)
    ]
    statement = _inserting(connection)(usage_days)
    updates: Mapping[str, object] = {name: usage_days.c[name] + statement.excluded[name] for name in SUMMED}
    statement = statement.on_conflict_do_update(index_elements=list(usage_days.primary_key), set_=updates)
    for batch in _batches(rows):
        connection.execute(statement, batch)


def _counts(row: Row) -> tuple[int, ...]:
    """What one call adds to each of `SUMMED`."""
    return (
        1,
        int(row["outcome"] == "ok"),
        int(row["outcome"] == "refused"),
        *(cast(int, row[name]) for name in TOKENS),
        int(bool(row["estimated"])),
        int(not row["usd"]),
        *parts_of(cast(str, row["usd"])),
    )


def _inserting(connection: Connection) -> type[postgresql.Insert | sqlite.Insert]:
    return postgresql.Insert if connection.dialect.name == "postgresql" else sqlite.Insert


def _batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while batch := list(islice(left, BATCH)):
        yield batch
