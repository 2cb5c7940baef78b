"""One change: its rows, its number and its entries in the audit log are one transaction, or none of them is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, select, update

from gateway.database import Database
from gateway.directory.audit import Actor, Event, append
from gateway.directory.tables import heads


@dataclass(frozen=True, slots=True)
class Change:
    """seq: its number, which every row that it touches takes. at_s: Unix time."""

    connection: Connection
    seq: int
    at_s: float
    actor: Actor

    def stamps(self, *, created: bool = False) -> dict[str, float]:
        """What each row gets that is written in it."""
        return {"updated_at": self.at_s, "seq": self.seq} | ({"created_at": self.at_s} if created else {})

    def done(self, event: Event) -> None:
        """Every row that the event tells of has been written."""
        self.connection.execute(update(heads).values(changes=self.seq))
        append(self.connection, self.actor, event, self.at_s)


@contextmanager
def changing(database: Database, actor: Actor, wall_s: Callable[[], float]) -> Iterator[Change]:
    """Who changes something waits for whoever does, so that numbers are seen in their order: a reader that has seen
    one never meets a smaller one later."""
    with database.write() as connection:
        seq = connection.execute(select(heads.c.changes).with_for_update()).scalar_one()
        yield Change(connection, seq + 1, wall_s(), actor)
