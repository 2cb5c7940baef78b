"""Taking in beside a gateway, as its office does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Row, select

from gateway.clock import RealClock
from gateway.database import Database, DatabaseError
from gateway.office.desk import Desk, Opener
from gateway.usage.intake import run_intake
from gateway.usage.tables import usage

T = TypeVar("T")
PATIENCE_S = 15.0


class Office:
    """Takes in, as the office does. folder: None: somebody else does, and it only reads."""

    def __init__(self, url: str, folder: Path | None) -> None:
        self.opener = Opener(url)
        self.desk = Desk(self.opener, "usage")
        self._task: asyncio.Task[None] | None = None
        if folder is not None:
            self._task = asyncio.create_task(run_intake(self.desk, folder, RealClock()))
        self._reader = Desk(self.opener, "reader")

    async def rows(self, count: int) -> list[Row[Any]]:
        """What is in the database, once it is so many."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(DatabaseError):
                    found = await self.ask(_rows)
                    if len(found) >= count:
                        return found
                await asyncio.sleep(0.05)

    async def ask(self, work: Callable[..., T], *args: Any) -> T:
        return await self._reader.run(work, *args)

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with suppress(DatabaseError):
            await self.desk.run(lambda database: None)  # what is under way goes on
        await asyncio.to_thread(self.desk.close, wait=True)
        await asyncio.to_thread(self._reader.close, wait=True)
        await asyncio.to_thread(self.opener.close)


def _rows(database: Database) -> list[Row[Any]]:
    with database.read() as connection:
        return list(connection.execute(select(usage).order_by(usage.c.at)))


@asynccontextmanager
async def office(url: str, folder: Path | None = None) -> AsyncIterator[Office]:
    made = Office(url, folder)
    try:
        yield made
    finally:
        await made.end()
