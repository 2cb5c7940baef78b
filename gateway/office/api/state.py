"""What the routes of the admin API read and change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.config import Config
from gateway.database import Database, DatabaseGone
from gateway.errors import Overloaded
from gateway.office.desk import Desk, P, T
from gateway.pool_report import PoolList


@dataclass(slots=True)
class OfficeState:
    """One for the office.

    config:   that the gateway runs with.
    database: for `work` alone: whatever touches it blocks.
    pools:    what all workers see of the pools.
    """

    config: Config
    database: Database
    desk: Desk
    pools: Callable[[], Awaitable[PoolList]]

    async def work(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work with the database, off the loop.

        Raises:
            Overloaded: 503, the database is away.
        """
        try:
            return await self.desk.run(work, *args, **kwargs)
        except DatabaseGone as error:
            message = f"The database is away: {error}. Model calls go on; try again."
            raise Overloaded(message, code="database_away", retry_after_s=2.0) from None
