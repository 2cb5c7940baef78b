"""Calls that are over, as the gateway tells of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from gateway.config.load import parse_config
from gateway.record import Record, Usage
from gateway.usage.frames import Ending
from gateway.usage.record import Pricing, UsageRecord, pricing_of, usage_record
from gateway.usage.segments import look, segments
from gateway.usage.spool import Spool

MODEL = "gpt-4o"
"""2.5 USD for a million tokens of prompt, 1.25 if cached, 10 of answers."""


def call(number: int = 0, *, prompt: int = 100, cached: int = 0, completion: int = 10, **fields: Any) -> Record:
    record = Record(
        request_id=f"req_{number}",
        started_s=1.0,
        operation="chat",
        tenant="acme",
        deployment="chat",
        variant="v",
        engine_model=MODEL,
        sensitivity="public",
        status=200,
        usage=Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached),
        first_token_s=1.25,
        ended_s=2.5,
    )
    return msgspec.structs.replace(record, **fields)


def pricing(**prices: Any) -> Pricing:
    return pricing_of(parse_config(msgspec.json.encode({"prices": prices}).decode()))


def kept(
    record: Record, unique_id: str = "one", at: float = 1_795_348_800.0, prices: Pricing | None = None
) -> UsageRecord:
    """By default at noon on 2026-11-22."""
    prices = prices or pricing()
    made = usage_record(record, unique_id, at, prices)
    prices.charge(made)
    return made


def spool_in(folder: Path, **options: Any) -> Spool:
    return Spool(folder, options.pop("prices", None) or pricing(), **({"max_bytes": 1 << 30} | options))


def spooled(folder: Path) -> list[UsageRecord]:
    """All records in the segments of a folder."""
    found: list[UsageRecord] = []
    for path in segments(folder):
        piece = look(path, 0).piece
        assert piece.ending is Ending.WHOLE
        found += [item for item in piece.items if isinstance(item, UsageRecord)]
    return found
