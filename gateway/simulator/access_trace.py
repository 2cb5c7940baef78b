"""The access log as a trace: what was really asked, and how long it really took."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path

import msgspec

from gateway.simulator.trace import BadTrace, Caller, Request, Trace, trace_of, unreadable

LOG_BLOCK_TOKENS = 64
REMEMBERED = 512
"""Of one caller, so many prompts are looked at for the one that a later prompt shares its beginning with."""


class _Line(msgspec.Struct):
    """What is read of a line; `gateway.telemetry.access_log.Line` says what the fields are."""

    time: str
    duration_ms: float
    deployment: str = ""
    tenant: str = ""
    key: str = ""
    sensitivity: str = ""
    pool: str = ""
    replica: str = ""
    ttft_ms: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    cache: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """How one request really went. ttft_s: None: it was not streamed."""

    pool: str
    replica: str
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    ttft_s: float | None
    e2e_s: float

    @property
    def tpot_s(self) -> float | None:
        """Seconds per token after the first; None: nobody knows, or there was only one."""
        if self.ttft_s is None or self.output_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Log:
    """trace: its requests in the order of their arrival. measured: how they went, in that order."""

    trace: Trace
    measured: list[Measured]


def open_log(path: Path, limit: int | None = None) -> Log:
    """`read_log` of a file.

    Raises:
        BadTrace: it cannot be read, or as `read_log`.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            return read_log(path, lines, limit)
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def read_log(path: Path, lines: Iterator[str], limit: int | None = None) -> Log:
    """The first `limit` requests that an engine answered.

    Lines without tokens are skipped: what was refused says nothing of its length, and what the response cache answered
    asked no engine. Which prompts began alike is guessed from the tokens that were cached.

    Raises:
        BadTrace: a line is not one of the access log, or no request was answered.
    """
    decode = msgspec.json.Decoder(_Line).decode
    found: list[tuple[Request, Measured]] = []
    skipped = 0
    for number, line in enumerate(lines, 1):
        if limit is not None and len(found) >= limit:
            break
        if not line.strip():
            continue
        try:
            row = decode(line)
            ended_s = datetime.fromisoformat(row.time).timestamp()
        except (msgspec.MsgspecError, ValueError) as error:
            raise BadTrace(f"{path}:{number}: not a line of the access log: {error}") from None
        if row.tokens_in <= 0 or not row.deployment or row.cache == "hit":
            skipped += 1
        else:
            found.append((_request(row, ended_s - row.duration_ms / 1e3), _measured(row)))
    found.sort(key=lambda pair: pair[0].arrival_s)
    _guess_prefixes(found)
    requests = [request for request, _measured in found]
    return Log(trace_of(path, requests, LOG_BLOCK_TOKENS, skipped=skipped), [measured for _request, measured in found])


def _request(row: _Line, arrival_s: float) -> Request:
    caller = Caller(row.tenant, row.key, row.deployment, row.sensitivity)
    return Request(arrival_s, row.tokens_in, max(1, row.tokens_out), (), caller)


def _measured(row: _Line) -> Measured:
    ttft_s = None if row.ttft_ms is None else row.ttft_ms / 1e3
    cached_tokens = min(row.tokens_cached, row.tokens_in)
    e2e_s = row.duration_ms / 1e3
    return Measured(row.pool, row.replica, row.tokens_in, max(1, row.tokens_out), cached_tokens, ttft_s, e2e_s)


def _guess_prefixes(found: list[tuple[Request, Measured]]) -> None:
    """Give the prompts block keys, such that each finds what it found cached.

    It is taken to continue the shortest prompt of the same caller that is long enough; of equal ones, the latest.
    """
    fresh = count()
    before: dict[Caller, deque[list[int]]] = {}
    for request, measured in found:
        prompts = before.setdefault(request.caller, deque(maxlen=REMEMBERED))
        blocks = (request.prompt_tokens - 1) // LOG_BLOCK_TOKENS
        shared = min(measured.cached_tokens // LOG_BLOCK_TOKENS, blocks)
        keys = list(_continued(prompts, shared)) if shared else []
        keys += (next(fresh) for _ in range(blocks - len(keys)))
        request.keys = keys
        prompts.appendleft(keys)


def _continued(prompts: deque[list[int]], blocks: int) -> list[int]:
    """So many leading keys of an earlier prompt, fewer if all are shorter."""
    long_enough = [keys for keys in prompts if len(keys) >= blocks]
    if long_enough:
        return min(long_enough, key=len)[:blocks]
    return max(prompts, key=len, default=[])
