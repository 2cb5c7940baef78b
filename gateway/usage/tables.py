"""What the database holds of usage."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Double, Index, Integer, String, Table, Text

from gateway.database.schema import Count, metadata

_NAME = String(128)

usage = Table(
    "usage",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("request_id", _NAME, nullable=False),
    Column("at", Double, nullable=False),
    Column("day", Integer, nullable=False),
    Column("tenant", _NAME, nullable=False),
    Column("team", _NAME, nullable=False),
    Column("key_id", _NAME, nullable=False),
    Column("key_name", _NAME, nullable=False),
    Column("deployment", _NAME, nullable=False),
    Column("variant", _NAME, nullable=False),
    Column("pool", _NAME, nullable=False),
    Column("replica", Text, nullable=False),
    Column("engine_model", Text, nullable=False),
    Column("prompt_tokens", Count, nullable=False),
    Column("cached_tokens", Count, nullable=False),
    Column("cache_write_tokens", Count, nullable=False),
    Column("completion_tokens", Count, nullable=False),
    Column("reasoning_tokens", Count, nullable=False),
    Column("usd", Text, nullable=False),
    Column("price_version", String(64), nullable=False),
    Column("ttft_s", Double),
    Column("duration_s", Double, nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("cache", String(16), nullable=False),
    Column("stream", Boolean, nullable=False),
    Index(None, "tenant", "day"),
    Index(None, "day"),
    Index(None, "request_id"),
)
"""One row for each call; see `gateway.usage.record.UsageRecord`.

day: in UTC, as the number YYYYMMDD.
"""

GROUPED = ("day", "tenant", "team", "key_id", "key_name", "deployment", "variant")
TOKENS = ("prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens", "reasoning_tokens")
SUMMED = ("calls", "ok", "refused", *TOKENS, "estimated", "unpriced", "nano_usd", "atto_usd")

usage_days = Table(
    "usage_days",
    metadata,
    *(Column(name, Integer if name == "day" else _NAME, primary_key=True, autoincrement=False) for name in GROUPED),
    *(Column(name, Count, nullable=False) for name in SUMMED),
)
"""Sums of the rows of `usage`, added up in the transaction that inserts them: so that a report of a year reads
thousands of rows, not billions. They outlive the rows. So that sums of money are exact in any database, it is in
integers: nano_usd x 1e-9 + atto_usd x 1e-18."""

usage_prices = Table(
    "usage_prices",
    metadata,
    Column("version", String(64), primary_key=True),
    Column("model", String(512), primary_key=True),
    Column("price", Text, nullable=False),
)
"""The prices by which the rows were reckoned, in JSON."""

usage_positions = Table(
    "usage_positions",
    metadata,
    Column("segment", _NAME, primary_key=True),
    Column("position", Count, nullable=False),
    Column("at", Double, nullable=False),
)
"""How far the segments of the spools are taken in, in bytes."""
