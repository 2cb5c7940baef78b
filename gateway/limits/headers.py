"""`x-ratelimit-…` as OpenAI writes it: what a caller may still use, of the limit of which least is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from gateway.limits.lease import Stock
from gateway.limits.plan import Line
from gateway.limits.units import REQUESTS, TOKENS

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


def remaining(stock: Stock) -> int:
    """Units that may be had now, as far as this worker knows."""
    return min(stock.meter.limit, stock.left + stock.free)


def header_lines(lines: Sequence[Line], stocks: Sequence[Stock], now_s: float) -> bytes:
    """For limits of requests and of tokens, where there are any."""
    requests = tokens = -1
    requests_share = tokens_share = 2.0
    for index, line in enumerate(lines):
        stock = stocks[index]
        if line.unit == REQUESTS:
            share = (stock.left + stock.free) / stock.meter.limit
            if share < requests_share:
                requests, requests_share = index, share
        elif line.unit == TOKENS:
            share = (stock.left + stock.free) / stock.meter.limit
            if share < tokens_share:
                tokens, tokens_share = index, share
    out = b""
    if requests >= 0:
        out = _told(b"requests", stocks[requests], now_s)
    if tokens >= 0:
        out += _told(b"tokens", stocks[tokens], now_s)
    return out


def _told(unit: bytes, stock: Stock, now_s: float) -> bytes:
    return b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %b\r\n" % (
        unit,
        stock.meter.limit,
        unit,
        remaining(stock),
        unit,
        duration(stock.resets_at_s - now_s),
    )


def duration(seconds: float) -> bytes:
    """As `6m0s`, `1h0m5s`, `20s` or `350ms`; never shorter than it is."""
    if seconds < 1.0:
        return b"%dms" % max(0, math.ceil(seconds * 1000))
    whole = math.ceil(seconds)
    if whole < _MINUTE_S:
        return b"%ds" % whole
    if whole < _HOUR_S:
        return b"%dm%ds" % divmod(whole, _MINUTE_S)
    return b"%dh%dm%ds" % (whole // _HOUR_S, whole % _HOUR_S // _MINUTE_S, whole % _MINUTE_S)
