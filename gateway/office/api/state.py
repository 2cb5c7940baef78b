"""What the routes of the admin API read and change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Concatenate

from gateway.config import Config
from gateway.config.live import Answer, Question
from gateway.database import Database, DatabaseGone, DatabaseUnusable
from gateway.directory.problems import Invalid, NotThere, Refused, Taken
from gateway.errors import ApiError, Conflict, InvalidRequest, NotFound, Overloaded
from gateway.office.api.shapes import sentence
from gateway.office.desk import Desk, P, T
from gateway.pool_report import PoolList

_ANSWERS: dict[type[Refused], type[ApiError]] = {NotThere: NotFound, Taken: Conflict, Invalid: InvalidRequest}


@dataclass(slots=True)
class OfficeState:
    """One for the office.

    config: that the gateway runs with.
    desk:   of the API, for `work` alone.
    pools:  what all workers see of the pools.
    ask_config: the supervisor, for what configuration serves, and to change it.
    is_up:  whether the database answered of late: while it does not, nobody waits to hear so.
    """

    config: Config
    desk: Desk
    pools: Callable[[], Awaitable[PoolList]]
    ask_config: Callable[[Question], Awaitable[Answer]]
    is_up: Callable[[], bool] = lambda: True

    async def work(self, work: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `work` with the database, off the loop.

        Raises:
            Overloaded: 503, the database is away.
            NotFound, Conflict, InvalidRequest: the directory refuses it.
        """
        if not self.is_up():
            raise _away("it does not answer")
        try:
            return await self.desk.run(work, *args, **kwargs)
        except Refused as error:
            raise _ANSWERS[type(error)](sentence(str(error))) from None
        except (DatabaseGone, DatabaseUnusable) as error:
            raise _away(str(error)) from None


def _away(reason: str) -> Overloaded:
    message = f"The database is away: {reason}. Model calls go on; try again."
    return Overloaded(message, code="database_away", retry_after_s=2.0)
