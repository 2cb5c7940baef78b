"""What is kept of single calls."""

from __future__ import annotations

import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import select

from gateway.database import Database
from gateway.usage.tables import usage

MOST = 100


class Call(BaseModel):
    """See `gateway.usage.record.UsageRecord`."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str
    request_id: str
    at: datetime.datetime
    tenant: str
    team: str
    key_id: str
    key_name: str
    deployment: str
    variant: str
    pool: str
    replica: str
    engine_model: str
    prompt_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    usd: str
    price_version: str
    ttft_s: float | None
    duration_s: float
    status: int
    error: str
    outcome: str
    estimated: bool
    cache: str
    stream: bool


class CallList(BaseModel):
    """At most `MOST`, the latest first."""

    model_config = ConfigDict(frozen=True)

    calls: list[Call]


def calls_of(database: Database, request_id: str, tenant: str | None = None) -> CallList:
    """Those that were sent under one request id. tenant: of this organisation alone.

    Raises:
        DatabaseGone
    """
    statement = select(usage).where(usage.c.request_id == request_id).order_by(usage.c.at.desc()).limit(MOST)
    if tenant is not None:
        statement = statement.where(usage.c.tenant == tenant)
    with database.read() as connection:
        return CallList(calls=[Call.model_validate(row) for row in connection.execute(statement)])
