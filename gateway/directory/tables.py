"""Organisations, teams, service accounts, keys, and the audit log. Instants are Unix time in seconds; 0: not yet.

Text in JSON is not a JSON column: that would be read for each of 100,000 keys.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    event,
    insert,
)

from gateway.database.schema import Count, metadata, settings

SALT = "keys.salt"
"""In `settings`: comes before every key under its digest."""
NAME = 128
"""Longest name; `gateway.config.base.Name`."""


def _common() -> list[Column[Any]]:
    """What all of them have. `seq`: the number of the change that they came to be so in."""
    return [
        Column("metadata", Text, nullable=False, default="{}"),
        Column("created_at", Double, nullable=False),
        Column("updated_at", Double, nullable=False),
        Column("seq", Count, nullable=False, index=True),
    ]


heads = Table(
    "heads",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("changes", Count, nullable=False),
    Column("audit", Count, nullable=False),
    Column("audit_hash", String(64), nullable=False),
)
"""One row, with the last number of each kind. Who writes locks it first: so numbers come without gaps and are seen in
their order."""

organisations = Table(
    "organisations",
    metadata,
    Column("name", String(NAME), primary_key=True),
    Column("limits", Text, nullable=False, default="{}"),
    Column("weight", Double, nullable=False, default=1.0),
    Column("priority", Integer, nullable=False, default=0),
    Column("when_store_lost", String(8), nullable=False, default="slice"),
    Column("log_content", Double, nullable=False, default=0.0),
    Column("disabled", Boolean, nullable=False, default=False),
    *_common(),
)

teams = Table(
    "teams",
    metadata,
    Column("organisation", ForeignKey("organisations.name"), primary_key=True),
    Column("name", String(NAME), primary_key=True),
    Column("limits", Text, nullable=False, default="{}"),
    Column("disabled", Boolean, nullable=False, default=False),
    *_common(),
)

service_accounts = Table(
    "service_accounts",
    metadata,
    Column("organisation", ForeignKey("organisations.name"), primary_key=True),
    Column("name", String(NAME), primary_key=True),
    Column("description", Text, nullable=False, default=""),
    Column("disabled", Boolean, nullable=False, default=False),
    *_common(),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(12), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("name", String(NAME), nullable=False),
    Column("organisation", ForeignKey("organisations.name")),
    Column("team", String(NAME)),
    Column("service_account", String(NAME)),
    Column("role", String(16), nullable=False, default=""),
    Column("deployments", Text),
    Column("networks", Text, nullable=False, default="[]"),
    Column("limits", Text, nullable=False, default="{}"),
    Column("sensitivity", String(NAME), nullable=False, default=""),
    Column("expires_at", Double, nullable=False, default=0.0),
    Column("revoked_at", Double, nullable=False, default=0.0),
    Column("replaced_by", String(12), nullable=False, default=""),
    Column("created_by", Text, nullable=False),
    *_common(),
    ForeignKeyConstraint(["organisation", "team"], ["teams.organisation", "teams.name"]),
    ForeignKeyConstraint(
        ["organisation", "service_account"], ["service_accounts.organisation", "service_accounts.name"]
    ),
    Index(None, "organisation", "name"),
    Index(None, "replaced_by"),
)
"""Keys stay when they are revoked: usage and the audit log speak of them. Null is nobody's, or allows all."""

audit = Table(
    "audit",
    metadata,
    Column("seq", Count, primary_key=True, autoincrement=False),
    Column("at", String(32), nullable=False),
    Column("actor", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", Text, nullable=False),
    Column("organisation", String(NAME), nullable=False, index=True),
    Column("before", Text),
    Column("after", Text),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)
"""See `gateway.directory.audit`."""

NO_HASH = "0" * 64
"""Before the first entry of the audit log."""


@event.listens_for(metadata, "after_create")
def _begin(_metadata: MetaData, connection: Connection, tables: Sequence[Table], **_: object) -> None:
    if heads not in tables:
        return
    connection.execute(insert(heads).values(id=1, changes=0, audit=0, audit_hash=NO_HASH))
    connection.execute(insert(settings).values(name=SALT, value=secrets.token_hex(16)))
