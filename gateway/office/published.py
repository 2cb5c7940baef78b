"""Configurations that were applied through an admin API, for all gateways of the database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

import msgspec
from sqlalchemy import Column, Double, Integer, String, Table, Text, delete, insert, select

from gateway.clock import wall_time_s
from gateway.config.dump import Difference
from gateway.config.live import Answer, Failed, Outcome, Propose, Question
from gateway.database import Database, DatabaseError
from gateway.database.schema import metadata
from gateway.directory import audit
from gateway.office.desk import Desk

logger = logging.getLogger(__name__)

KEPT = 50
POLL_S = 0.25
AWAY_S = 1.0
"""Between two looks while the database is away."""

configs = Table(
    "configs",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("version", String(64), nullable=False),
    Column("at", Double, nullable=False),
    Column("who", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("base", String(64), nullable=False),
    Column("text", Text, nullable=False),
)
"""The newest `KEPT`; the last of them is what all gateways are to serve. See `gateway.config.live.Propose`."""


class Published(msgspec.Struct, frozen=True):
    """One row. `text`: with `${VAR}` as it was given; every gateway has variables of its own."""

    seq: int
    version: str
    at: float
    who: str
    name: str
    base: str
    text: str


def newest(database: Database, after: int = 0) -> Published | None:
    """The last one, if its number is above `after`."""
    with database.read() as connection:
        row = connection.execute(
            select(configs).where(configs.c.seq > after).order_by(configs.c.seq.desc()).limit(1)
        ).one_or_none()
    return Published(**row._mapping) if row is not None else None


def publish(
    database: Database, actor: audit.Actor, applied: Outcome, text: str, name: str, changes: Iterable[Difference]
) -> None:
    """Have every gateway serve what this one serves now, and put it down in the audit log. Nothing happens if it was
    the last one already."""
    with database.write() as connection:
        if database.dialect == "postgresql":
            connection.exec_driver_sql("LOCK TABLE configs IN EXCLUSIVE MODE")  # numbers are given one at a time
        last = connection.execute(
            select(configs.c.seq, configs.c.version).order_by(configs.c.seq.desc()).limit(1)
        ).first()
        if last is not None and last.version == applied.version:
            return
        seq = (last.seq if last is not None else 0) + 1
        connection.execute(
            insert(configs).values(
                seq=seq,
                version=applied.version,
                at=wall_time_s(),
                who=actor.name,
                name=name,
                base=applied.base,
                text=text,
            )
        )
        connection.execute(delete(configs).where(configs.c.seq <= seq - KEPT))
        done: audit.Json = {"name": name, "changes": [change.as_dict() for change in changes]}
        audit.append(connection, actor, audit.Event("config.apply", applied.version, after=done))


async def follow_configs(desk: Desk, ask: Callable[[Question], Awaitable[Answer]]) -> None:
    """Have this gateway serve what another one publishes, until cancelled.

    What was published before the first look is passed over where this gateway has heard of it, or has had its own last
    word since. ask: the supervisor.
    """
    known, first = 0, True
    while True:
        try:
            found = await desk.run(newest, known)
        except DatabaseError:
            await asyncio.sleep(AWAY_S)
            continue
        if found is not None:
            known = found.seq
            await _take(found, ask, first=first)
        first = False
        await asyncio.sleep(POLL_S)


async def _take(found: Published, ask: Callable[[Question], Awaitable[Answer]], *, first: bool) -> None:
    given = Propose(
        text=found.text,
        name=found.name,
        who=found.who,
        origin="database",
        version=found.version,
        base=found.base if first else "",
        given_at=found.at if first else 0.0,
    )
    try:
        answer = await ask(given)
    except TimeoutError:
        logger.error("the configuration %s of another gateway was not put in place in time", found.version)
        return
    if isinstance(answer, Failed):
        logger.error("the configuration %s of another gateway was not taken: %s", found.version, answer.message)
