"""What a caller says of the cache: the request directives of `cache-control` (RFC 9111, section 5.2.1) and one header.

Directives that are not known, and what cannot be read, count for nothing; but an age that cannot be read is the most
careful one there is. `max-stale` counts for nothing: what has expired is gone.
"""

from __future__ import annotations

import math
import re
from typing import Final, Literal

import msgspec

from gateway.errors import InvalidRequest, NotCached
from gateway.http import Request

Source = Literal["hit", "semantic", "miss", "bypass"]
"""Where an answer comes from: a kept one to the same question, to one worded differently, or the engine; `bypass`: the
cache was not asked."""

TTL_HEADER: Final = b"x-headrace-cache-ttl"
MAX_S: Final = 2**31
"""What is longer counts as so long (RFC 9111, section 1.2.2)."""
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE: Final = rb'"(?:[^"\\]|\\.)*"|[^,;]*'
_DIRECTIVE: Final = re.compile(rb"\s*(%b)(?:\s*=\s*(%b))?\s*(?:[,;]|\Z)" % (_TOKEN, _VALUE))
"""A semicolon parts them as well: many write one."""
_NEXT: Final = re.compile(rb"[,;]|\Z")
_SECONDS: Final = re.compile(rb"\d+")


class Controls(msgspec.Struct, frozen=True):
    """What a caller wants of the cache.

    reads:          whether it may be answered from it.
    stores:         whether its answer may be kept.
    only_if_cached: whether it wants no other answer than a kept one.
    """

    reads: bool = True
    stores: bool = True
    only_if_cached: bool = False
    max_age_s: float = math.inf
    """An answer that is older is not for it."""
    min_fresh_s: float = 0.0
    """Nor one that is kept for less than that from now on."""
    ttl_s: float = math.inf
    """Its own answer is not kept for longer."""

    def serves(self, age_s: float, left_s: float) -> bool:
        """Whether an answer of that age, which is kept for `left_s` more, is good enough."""
        return self.reads and age_s <= self.max_age_s and left_s >= self.min_fresh_s


USUAL: Final = Controls()


def read_controls(request: Request) -> Controls:
    """
    Raises:
        InvalidRequest: `x-headrace-cache-ttl` is no number of seconds.
    """
    headers = request.headers
    if b"cache-control" not in headers and b"pragma" not in headers and TTL_HEADER not in headers:
        return USUAL
    ttl_s = _ttl(headers.get(TTL_HEADER))
    given = _directives(request)
    reads = b"no-cache" not in given
    return Controls(
        reads=reads and b"no-store" not in given,
        stores=b"no-store" not in given and ttl_s > 0,
        only_if_cached=b"only-if-cached" in given,
        max_age_s=_seconds(given.get(b"max-age"), unreadable=0),
        min_fresh_s=0 if b"min-fresh" not in given else _seconds(given[b"min-fresh"], unreadable=math.inf),
        ttl_s=ttl_s,
    )


def not_cached() -> NotCached:
    """The answer to a call with `only-if-cached` for which there is nothing (RFC 9111, section 5.2.1.7)."""
    return NotCached("No kept answer fits this request, and it asked for none but a kept one (only-if-cached).")


def answer_lines(
    source: Source,
    *,
    entry_id: str = "",
    age_s: float = 0.0,
    similarity: float | None = None,
    score: float | None = None,
    bound: float | None = None,
) -> bytes:
    """The header lines that say where an answer comes from.

    age_s: since the engine gave it; told of kept answers.
    similarity, score, bound: of a semantic one its cosine, its certainty, and the share of wrong ones, at most, among
                              answers as certain.
    """
    lines = b"x-headrace-cache: %b\r\n" % source.encode()
    if source in ("hit", "semantic"):
        lines += b"age: %d\r\n" % max(0, int(age_s))
    if entry_id:
        lines += b"x-headrace-cache-id: %b\r\n" % entry_id.encode()
    if similarity is not None:
        lines += b"x-headrace-cache-similarity: %.4f\r\n" % similarity
    if score is not None:
        lines += b"x-headrace-cache-score: %.4f\r\n" % score
    if bound is not None:
        lines += b"x-headrace-cache-bound: %.4f\r\n" % bound
    return lines


def _directives(request: Request) -> dict[bytes, list[bytes]]:
    """Of all such headers together, as one list: the values of each directive, b"" where it has none."""
    lists = [value for name, value in request.raw_headers if name == b"cache-control"]
    if not lists:  # RFC 9111, section 5.4
        pragma = request.headers.get(b"pragma", b"").lower().split(b",")
        return {b"no-cache": [b""]} if b"no-cache" in [word.strip() for word in pragma] else {}
    found: dict[bytes, list[bytes]] = {}
    for given in lists:
        at = 0
        while at < len(given):
            match = _DIRECTIVE.match(given, at)
            if match is not None:
                found.setdefault(match[1].lower(), []).append((match[2] or b"").strip(b' \t"'))
            after = match or _NEXT.search(given, at)
            at = after.end() if after else len(given)
    return found


def _seconds(values: list[bytes] | None, *, unreadable: float) -> float:
    """Of several values the most careful one."""
    if values is None:
        return math.inf
    read = [min(int(v), MAX_S) if len(v) < 20 and _SECONDS.fullmatch(v) else _far(v, unreadable) for v in values]
    return max(read) if unreadable else min(read)


def _far(value: bytes, unreadable: float) -> float:
    return MAX_S if _SECONDS.fullmatch(value) else unreadable


def _ttl(value: bytes | None) -> float:
    if value is None:
        return math.inf
    if len(value) < 20 and _SECONDS.fullmatch(value):
        return int(value)
    raise InvalidRequest(
        f"{TTL_HEADER.decode()} is {value[:40].decode('latin-1')!r}; it must be whole seconds, such as 60.",
        code="invalid_cache_ttl",
    )
