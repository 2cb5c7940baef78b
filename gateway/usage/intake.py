"""From the workers' segments into the database: each record once, whatever ends in between (A15)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError

from gateway.backoff import Backoff
from gateway.clock import Clock, wall_time_s
from gateway.database import Database, DatabaseError
from gateway.usage.frames import Item
from gateway.usage.record import UsageRecord
from gateway.usage.segments import Look, hold, is_finished, look, make_folder, segments, set_aside
from gateway.usage.store import Row, day_of, forget_before, put, store
from gateway.usage.tables import usage, usage_positions
from gateway.usage.tail import salvage

logger = logging.getLogger(__name__)

EVERY_S: Final = 0.5
"""How often the segments are looked at while nothing new is found."""
WITHIN_S: Final = 30.0
"""Longest that the database may take for what is stored at once."""
LAST_S: Final = 2.0
"""For taking in once more at the end."""
PRUNE_S: Final = 3600.0
_PRUNED_AT_ONCE: Final = 10_000
_KEPT_POSITIONS_S: Final = 30 * 86_400.0
"""Positions are deleted with their segment. What a crash in between leaves stays for so long."""


class Intake:
    """Takes in from one folder into one database. Blocks: it has a thread to itself."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder

    def __repr__(self) -> str:
        return f"<Intake {self._folder} -> {self._database!r}>"

    def take_in(self) -> int:
        """Take in all that there is now. Returns the number of records read.

        Raises:
            DatabaseGone: what was not taken in stays where it is.
            OSError: a segment cannot be read or deleted.
        """
        with contextlib.suppress(OSError):
            salvage(self._folder)
        found = segments(self._folder)
        if not found:
            return 0
        positions = self._positions()
        count = 0
        for path in found:
            try:
                count += self._take_segment(path, positions.get(path.stem, 0))
            except FileNotFoundError:
                continue
            except (SQLAlchemyError, ValueError, ArithmeticError) as error:
                self._refuse(path, error)
        return count

    def prune(self, days: int | None) -> int:
        """Delete records of days before so many days; their sums stay. Returns how many were.

        Raises:
            DatabaseGone: some may be deleted, and some not.
        """
        now_s = wall_time_s()
        first = 0 if days is None else day_of(now_s - days * 86_400)
        with self._database.write() as connection:
            if first:
                forget_before(connection, first)
            connection.execute(delete(usage_positions).where(usage_positions.c.at < now_s - _KEPT_POSITIONS_S))
        count = 0
        if first:
            old = select(usage.c.id).where(usage.c.day < first).limit(_PRUNED_AT_ONCE)
            while deleted := self._delete(old.scalar_subquery()):
                count += deleted
        return count

    def _delete(self, ids: object) -> int:
        with self._database.write(WITHIN_S) as connection:
            return connection.execute(delete(usage).where(usage.c.id.in_(ids))).rowcount  # type: ignore[arg-type]

    def _positions(self) -> dict[str, int]:
        with self._database.read() as connection:
            rows = connection.execute(select(usage_positions.c.segment, usage_positions.c.position))
            return {row.segment: row.position for row in rows}

    def _take_segment(self, path: Path, position: int) -> int:
        count = 0
        while True:
            seen = look(path, position)
            items = seen.piece.items
            position += seen.piece.end
            if items:
                self._store(path, items, position)
                count += sum(isinstance(item, UsageRecord) for item in items)
            if seen.finished:
                self._put_away(path, seen, position)
            if not seen.more:
                return count

    def _store(self, path: Path, items: Sequence[Item], position: int) -> None:
        """Records, and how far they go, in one transaction."""
        with self._database.write(WITHIN_S) as connection:
            store(connection, items)
            place: Row = {"segment": path.stem, "position": position, "at": wall_time_s()}
            put(connection, usage_positions, [place], changes=("position", "at"))

    def _refuse(self, path: Path, error: Exception) -> None:
        """The database does not take what is there: others must not wait for it. Nothing of it is deleted."""
        if is_finished(path):
            kept = set_aside(path)
            reason = type(getattr(error, "orig", None) or error).__name__
            logger.error("usage: the database refuses a record of %s (%s); the file stays", kept, reason)

    def _put_away(self, path: Path, seen: Look, position: int) -> None:
        """Every record that it has is in the database: `position` is behind the last one."""
        if seen.damaged:
            kept = set_aside(path)
            logger.error(
                "usage: %s is damaged at byte %d; what came before is taken in, the file stays", kept, position
            )
        else:
            path.unlink()
        with self._database.write() as connection:
            connection.execute(delete(usage_positions).where(usage_positions.c.segment == path.stem))


class Desk(Protocol):
    """Does blocking work with the database elsewhere."""

    async def run(self, work: Callable[[Database], int]) -> int:
        """Raises DatabaseError."""
        ...


async def run_intake(desk: Desk, folder: Path, clock: Clock, usage_days: int | None = None) -> None:
    """Take in until cancelled, and then once more. While the database is away it waits, and goes on where it was.

    desk:       for this alone: what it does may take long.
    folder:     of the workers' segments; of several gateways on one machine that share it, one at a time takes in.
    usage_days: records older than this are deleted; None: they are kept.
    """
    with await _held(folder, clock):
        try:
            await _keep_taking(desk, folder, clock, usage_days)
        finally:
            # The workers have ended, and what they wrote last need not wait for the next start.
            with contextlib.suppress(DatabaseError, OSError, TimeoutError):
                async with asyncio.timeout(LAST_S):
                    await desk.run(lambda database: Intake(database, folder).take_in())


async def _keep_taking(desk: Desk, folder: Path, clock: Clock, usage_days: int | None) -> None:
    backoff = Backoff(random.Random())  # noqa: S311 - spreads load
    away, prune_at_s = False, clock.monotonic()
    while True:
        pause_s = EVERY_S
        try:
            if await desk.run(lambda database: Intake(database, folder).take_in()):
                pause_s = EVERY_S / 10
            if clock.monotonic() >= prune_at_s:
                await desk.run(lambda database: Intake(database, folder).prune(usage_days))
                prune_at_s = clock.monotonic() + PRUNE_S
            if away:
                logger.warning("usage: the database is back; what was spooled is taken in")
            away = False
            backoff.reset()
        except (DatabaseError, OSError) as error:
            if not away:
                logger.error("usage stays in %s until it can be taken in: %s", folder, error)
            away, pause_s = True, backoff.pause_s()
        await clock.sleep(pause_s)


async def _held(folder: Path, clock: Clock) -> contextlib.ExitStack:
    """The right to take in from `folder`, once nobody else has it."""
    stack, told = contextlib.ExitStack(), False
    while True:
        try:
            fd = await asyncio.to_thread(_hold, folder)
        except OSError as error:
            fd = None
            if not told:
                logger.error("usage cannot be taken in from %s: %s", folder, error)
            told = True
        if fd is not None:
            stack.callback(os.close, fd)
            return stack
        await clock.sleep(EVERY_S)


def _hold(folder: Path) -> int | None:
    make_folder(folder)
    return hold(folder)
