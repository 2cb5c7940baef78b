"""What is kept for good: keys, usage, configurations, and who changed what."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from gateway.config.base import Port, Positive, Section


class Database(Section):
    """SQLite or PostgreSQL. No request ever waits for it. With a database, every call needs a key."""

    url: SecretStr = SecretStr("sqlite:///headrace.db")
    """`sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://user:password@host/name`."""
    grace_s: Positive = 86_400.0
    """How long keys of the database go on being taken while it is away (A15)."""
    usage_days: Annotated[int, Field(ge=1)] | None = None
    """Usage records older than this are deleted; none: they are kept."""
    usage_spool: str | None = None
    """Folder in which usage records wait for the database; none: `usage` in the folder of the gateway's state."""
    usage_spool_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """How many bytes of records may wait there. Past it the oldest stay, and new ones are lost, counted and logged."""


class Admin(Section):
    """The admin API, on a port of its own. It needs `database`."""

    host: str = "127.0.0.1"
    """Address to bind. With `server.tls` it serves HTTPS, with the same certificate."""
    port: Port = 9090
    """TCP port; 0 takes a free one."""
    requests_per_second: Positive = 20.0
    """Requests of one key or address; more get 429."""
    origins: list[str] = []
    """Browser origins that may call it; a request from any other page is refused."""
