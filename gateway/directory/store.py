"""Organisations, teams, service accounts and keys in the database, and the log of who changed them.

Every call blocks: it belongs into a thread, or into a command.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.clock import wall_time_s
from gateway.database import Database
from gateway.directory.api_keys import Keys
from gateway.directory.audit import AuditLog
from gateway.directory.entries import Changes, Snapshot
from gateway.directory.groups import Groups, Kind
from gateway.directory.reading import Reading
from gateway.directory.records import (
    Organisation,
    ServiceAccount,
    Team,
    organisation_record,
    service_account_record,
    team_record,
)
from gateway.directory.tables import organisations, service_accounts, teams

ORGANISATION = Kind("organisation", organisations, organisation_record, inside=False)
TEAM = Kind("team", teams, team_record, owns="team")
SERVICE_ACCOUNT = Kind("service account", service_accounts, service_account_record, owns="service_account")


class Directory:
    """Every change is one transaction: its rows, its number for those who follow, and an entry in the audit log.

    Every method raises DatabaseGone, and those that change or name something Refused.
    """

    def __init__(self, database: Database, wall_s: Callable[[], float] = wall_time_s) -> None:
        self.organisations: Groups[Organisation] = Groups(database, ORGANISATION, wall_s)
        self.teams: Groups[Team] = Groups(database, TEAM, wall_s)
        self.service_accounts: Groups[ServiceAccount] = Groups(database, SERVICE_ACCOUNT, wall_s)
        self.keys = Keys(database, wall_s)
        self.audit = AuditLog(database)
        self._reading = Reading(database, wall_s)

    def snapshot(self) -> Snapshot:
        """All that is in use, for workers that begin."""
        return self._reading.snapshot()

    def changes_since(self, seq: int) -> Changes | None:
        """What became of it; None: begin with a snapshot."""
        return self._reading.changes_since(seq)
