"""What a caller over a limit is told: which limit, how large, whose, what is used of it, where it is set, and when to
come again."""

from __future__ import annotations

from typing import Final

from gateway.errors import ApiError, InsufficientQuota, LimitsUnavailable, RateLimited
from gateway.limits.headers import duration, remaining
from gateway.limits.lease import Stock
from gateway.limits.plan import Line, Plan
from gateway.limits.seam import Span
from gateway.limits.units import MONEY, NANO, PARALLEL, REQUESTS

_IN: Final = {
    Span.MINUTE: "in any 60 seconds",
    Span.DAY: "in any 24 hours",
    Span.UTC_DAY: "a day (UTC)",
    Span.UTC_MONTH: "a month (UTC)",
}
RETRY_S: Final = 1.0
"""Where nobody can say when it will be better."""


def over_limit(line: Line, stock: Stock, need: int, now_s: float, more_lines: bytes) -> ApiError:
    """need: units that the call would have reserved."""
    message = _sentence(line, stock, need)
    if line.unit == PARALLEL:
        return RateLimited(message, code="concurrency", retry_after_s=RETRY_S, more_lines=more_lines)
    wait_s, again = max(0.001, stock.retry_at_s - now_s), None
    if need > line.meter.limit:
        again = False
    else:
        message += f" Try again in {duration(wait_s).decode()}."
    if line.unit == MONEY:
        return InsufficientQuota(message, retry_after_s=wait_s, more_lines=more_lines)
    if line.unit == REQUESTS:
        return RateLimited(message, code="requests_limit", retry_after_s=wait_s, more_lines=more_lines)
    return RateLimited(message, code="tokens_limit", retry_after_s=wait_s, should_retry=again, more_lines=more_lines)


def without_store(plan: Plan) -> LimitsUnavailable:
    """The organisation wants nothing admitted that nobody can count."""
    return LimitsUnavailable(
        f"Limits cannot be counted now, and organisation {plan.tenant!r} is set to be refused meanwhile "
        "(when_store_lost: closed)."
    )


def _sentence(line: Line, stock: Stock, need: int) -> str:
    limit = line.meter.limit
    used = max(0, limit - remaining(stock))
    whose = line.whose[0].upper() + line.whose[1:]
    if line.unit == PARALLEL:
        return f"{whose} may have {_count(limit, 'request')} in flight at once ({line.setting}); {used} are."
    if line.unit == MONEY:
        return (
            f"{whose} may spend {_usd(limit)} USD {_IN[line.meter.span]} ({line.setting}); {_usd(used)} are spent, and "
            f"this request may cost {_usd(need)}."
        )
    if line.unit == REQUESTS:
        return f"{whose} may send {_count(limit, 'request')} {_IN[line.meter.span]} ({line.setting}); {used} are used."
    return (
        f"{whose} may use {_count(limit, 'token')} {_IN[line.meter.span]} ({line.setting}); {used} are used or "
        f"reserved, and this request may need {need}{_lower(need, limit)}."
    )


def _lower(need: int, limit: int) -> str:
    return ", which is more than may ever be had: set a lower `max_tokens`, or shorten the prompt" * (need > limit)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _usd(nano: int) -> str:
    return f"{nano / NANO:.9f}".rstrip("0").rstrip(".")
