"""The directory as workers need it: all that is in use, and what became of it since."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import msgspec
from sqlalchemy import Connection, Row, Select, Table, select

from gateway.database import Database
from gateway.database.schema import settings
from gateway.directory.entries import NO_LIMITS, Changes, KeyEntry, Limits, OrganisationEntry, Snapshot, TeamEntry
from gateway.directory.records import kept_limits
from gateway.directory.tables import SALT, heads, keys, organisations, service_accounts, teams

LONG_S = 60.0
"""Longest that a snapshot may take."""
EXPIRED_S = 86_400.0
"""Keys that expired so long ago are not told of: no worker's clock is as late as that."""

_KEYS = select(
    *(keys.c.id, keys.c.digest, keys.c.name, keys.c.organisation, keys.c.team, keys.c.role, keys.c.deployments),
    *(keys.c.networks, keys.c.expires_at, keys.c.limits, keys.c.sensitivity, keys.c.service_account),
    keys.c.revoked_at,
)
_names = msgspec.json.Decoder(list[str]).decode


class Reading:
    """Each call sees one state of the database."""

    def __init__(self, database: Database, wall_s: Callable[[], float]) -> None:
        self._database = database
        self._wall_s = wall_s

    def snapshot(self) -> Snapshot:
        with self._database.read(LONG_S) as connection:
            seq = _seq(connection)
            found, _ = self._keys(connection, _KEYS.where(keys.c.revoked_at == 0))
            return Snapshot(
                seq,
                connection.scalars(select(settings.c.value).where(settings.c.name == SALT)).one(),
                [_organisation(row) for row in connection.execute(select(organisations))],
                [_team(row) for row in connection.execute(select(teams))],
                found,
            )

    def changes_since(self, seq: int) -> Changes | None:
        """What changed after change `seq`; with the same `seq` and nothing in it: nothing.

        None: the database has not got so far, so that it is an older copy of itself: begin with a snapshot.
        """
        with self._database.read() as connection:
            now = _seq(connection)
            if now < seq:
                return None
            if now == seq:
                return Changes(seq, [], [], [], [])
            found, gone = self._keys(connection, _KEYS.where(keys.c.seq > seq))
            changed_teams = connection.execute(select(teams).where(teams.c.seq > seq))
            team_entries = [_team(row) for row in changed_teams]
            changed = connection.execute(select(organisations).where(organisations.c.seq > seq))
            return Changes(now, [_organisation(row) for row in changed], team_entries, found, gone)

    def _keys(self, connection: Connection, query: Select[Any]) -> tuple[list[KeyEntry], list[str]]:
        """Those in use, and the ids of the others."""
        off_teams, off_accounts = _disabled(connection, teams), _disabled(connection, service_accounts)
        over_s = self._wall_s() - EXPIRED_S
        limits_of: dict[str, Limits] = {"{}": NO_LIMITS}
        found: list[KeyEntry] = []
        gone: list[str] = []
        for row in cast("Iterable[Any]", connection.execute(query)):
            (id_, digest, name, organisation, team, role, deployments, networks, expires_at, text, *rest) = row
            sensitivity, account, revoked_at = rest
            off = (organisation, team) in off_teams or (organisation, account) in off_accounts
            if revoked_at or off or 0 < expires_at < over_s:
                gone.append(id_)
                continue
            limits = limits_of.get(text)
            if limits is None:
                limits = limits_of[text] = kept_limits(text)
            found.append(
                KeyEntry(
                    *(id_, digest, name, organisation or "", team or "", role),
                    None if deployments is None else _names(deployments),
                    [] if networks == "[]" else _names(networks),
                    *(expires_at, limits, sensitivity, account or ""),
                )
            )
        return found, gone


def _seq(connection: Connection) -> int:
    return int(connection.execute(select(heads.c.changes)).scalar_one())


def _disabled(connection: Connection, table: Table) -> set[tuple[str, str]]:
    query = select(table.c.organisation, table.c.name).where(table.c.disabled)
    return {(row.organisation, row.name) for row in connection.execute(query)}


def _organisation(row: Row[Any]) -> OrganisationEntry:
    return OrganisationEntry(
        *(row.name, kept_limits(row.limits), row.weight, row.priority),
        *(row.when_store_lost, row.log_content, row.disabled),
    )


def _team(row: Row[Any]) -> TeamEntry:
    return TeamEntry(row.organisation, row.name, kept_limits(row.limits), row.disabled)
