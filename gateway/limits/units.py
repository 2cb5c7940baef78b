"""What limits count, and how their settings become numbers."""

from __future__ import annotations

from typing import Final

from gateway.directory.entries import Limits
from gateway.limits.seam import Span

REQUESTS: Final = 0
TOKENS: Final = 1
MONEY: Final = 2
PARALLEL: Final = 3
"""Units: numbers, because what a call needs is a tuple in this order."""

NANO: Final = 10**9
"""Billionths in a US dollar."""
UNLIMITED: Final = 1 << 52
"""More than anybody may use, and still exact in every store."""

WINDOWS: Final = (
    ("requests_per_minute", REQUESTS, Span.MINUTE),
    ("requests_per_day", REQUESTS, Span.DAY),
    ("tokens_per_minute", TOKENS, Span.MINUTE),
    ("tokens_per_day", TOKENS, Span.DAY),
    ("usd_per_day", MONEY, Span.UTC_DAY),
    ("usd_per_month", MONEY, Span.UTC_MONTH),
    ("parallel", PARALLEL, Span.NOW),
)
"""Settings that are kept count of: name, unit, span."""
UNIT_NAMES: Final = ("requests", "tokens", "usd", "parallel")


def limit_in(limits: Limits, name: str) -> tuple[int | None, int | None]:
    """The hard and the soft value of one of `WINDOWS`."""
    match name:
        case "requests_per_minute":
            return limits.requests_per_minute, None
        case "requests_per_day":
            return limits.requests_per_day, None
        case "tokens_per_minute":
            return limits.tokens_per_minute, None
        case "tokens_per_day":
            return limits.tokens_per_day, None
        case "usd_per_day":
            return limits.nano_usd_per_day, limits.nano_usd_per_day_soft
        case "usd_per_month":
            return limits.nano_usd_per_month, limits.nano_usd_per_month_soft
        case _:
            return limits.parallel, None
