"""The tables as this release wants them, whoever made them and however many begin at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version as installed

from sqlalchemy import Connection, MetaData, func, insert, inspect, select, text

from gateway.clock import wall_time_s
from gateway.database.errors import DatabaseUnusable
from gateway.database.schema import load_tables, schema_version

Step = Callable[[Connection], None]

STEPS: tuple[Step, ...] = ()
"""`STEPS[n]` makes version n + 2 of version n + 1. A step that was released is never changed: it names tables and
columns as they were then, in SQL, and shares nothing with the tables of today."""

_LOCK = 0x48454144  # any number that nobody else takes


def migrate(connection: Connection, steps: Sequence[Step] = STEPS, tables: MetaData | None = None) -> None:
    """Bring the database to the present version, in the transaction of `connection`, which may write.

    A new database gets its tables as they are defined; an older one takes each step that it lacks.

    Raises:
        DatabaseUnusable: it is of a newer release.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    known = len(steps) + 1
    found = _version(connection)
    if found > known:
        raise DatabaseUnusable(
            f"its schema has version {found}, and this release of Headrace knows versions up to {known}: "
            "it was opened by a newer release; run that one, or restore a backup from before"
        )
    if found == 0:
        (tables or load_tables()).create_all(connection)
        _stamp(connection, known)
    for number in range(found, known) if found else ():
        steps[number - 1](connection)
        _stamp(connection, number + 1)


def _version(connection: Connection) -> int:
    if not inspect(connection).has_table(schema_version.name):
        return 0
    return connection.scalar(select(func.max(schema_version.c.version))) or 0


def _stamp(connection: Connection, version: int) -> None:
    connection.execute(
        insert(schema_version).values(version=version, applied_at=wall_time_s(), applied_by=installed("headrace"))
    )
