"""The database as the directory feed reads it."""

from __future__ import annotations

from gateway.database import Database
from gateway.directory.entries import Changes, Snapshot
from gateway.directory.store import Directory
from gateway.office.desk import Desk


class DirectorySource:
    """Implements `gateway.office.feed.Source`. `desk`: of its own, so that a long report delays no revocation."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def snapshot(self) -> Snapshot:
        return await self._desk.run(_snapshot)

    async def changes_since(self, seq: int) -> Changes | None:
        return await self._desk.run(_changes_since, seq)


def _snapshot(database: Database) -> Snapshot:
    return Directory(database).snapshot()


def _changes_since(database: Database, seq: int) -> Changes | None:
    return Directory(database).changes_since(seq)
