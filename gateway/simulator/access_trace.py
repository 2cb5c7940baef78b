"""The access log as a trace: what was really asked, and how long it really took."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from statistics import median

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
    prefix: list[str] = []
    prefix_block_tokens: float = 0.0


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
    asked no engine. Where `prefix` does not tell which prompts began alike, it is guessed from the cached tokens.

    Raises:
        BadTrace: a line is not one of the access log, or no request was answered.
    """
    decode = msgspec.json.Decoder(_Line).decode
    found: list[tuple[Request, Measured]] = []
    told: list[tuple[Request, _Line]] = []
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
        if row.tokens_in <= 0 or not row.deployment or row.cache in ("hit", "semantic"):
            skipped += 1
        else:
            request = _request(row, ended_s - row.duration_ms / 1e3)
            found.append((request, _measured(row)))
            if row.prefix and row.prefix_block_tokens > 0.0:
                told.append((request, row))
    found.sort(key=lambda pair: pair[0].arrival_s)
    blocks = _Blocks()
    _told_prefixes(path, told, blocks)
    _guess_prefixes(found, blocks)
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


class _Blocks:
    """Keys for blocks: equal ones for those that are known to be equal."""

    def __init__(self) -> None:
        self._count = count()
        self._known: dict[tuple[str, int], int] = {}

    def fresh(self, blocks: int) -> list[int]:
        return [next(self._count) for _ in range(blocks)]

    def of_marks(self, prompt_tokens: int, marks: Sequence[str], block_tokens: float) -> list[int]:
        """A block is the same as another one if the shortest beginning that covers it is the same; see `prefix_marks`.

        Raises:
            ValueError: a mark has no number of blocks.
        """
        keys: list[int] = []
        most = _blocks_in(prompt_tokens)
        for mark in marks:
            covered = min(most, int(int(mark.partition(":")[0]) * block_tokens) // LOG_BLOCK_TOKENS)
            for block in range(len(keys), covered):
                name = mark, block
                if name not in self._known:
                    self._known[name] = next(self._count)
                keys.append(self._known[name])
        return [*keys, *self.fresh(most - len(keys))] if keys else []


def _blocks_in(prompt_tokens: int) -> int:
    return (prompt_tokens - 1) // LOG_BLOCK_TOKENS


def _told_prefixes(path: Path, told: Sequence[tuple[Request, _Line]], blocks: _Blocks) -> None:
    """Where the log says which prompts begin alike. The length of a block may be an estimate that changes from line to
    line, while its place in the prompt does not: all get the same length."""
    if not told:
        return
    block_tokens = median(row.prefix_block_tokens for _request, row in told)
    try:
        for request, row in told:
            request.keys = blocks.of_marks(request.prompt_tokens, row.prefix, block_tokens)
    except ValueError as error:
        raise BadTrace(f"{path}: `prefix`: {error}") from None


def _guess_prefixes(found: list[tuple[Request, Measured]], fresh: _Blocks) -> None:
    """Give the prompts of which nothing is told keys, such that each finds what it found cached.

    It is taken to continue the shortest prompt of the same caller that is long enough; of equal ones, the latest.
    """
    before: dict[Caller, deque[Sequence[int]]] = {}
    for request, measured in found:
        if request.keys:
            continue
        prompts = before.setdefault(request.caller, deque(maxlen=REMEMBERED))
        blocks = _blocks_in(request.prompt_tokens)
        shared = min(measured.cached_tokens // LOG_BLOCK_TOKENS, blocks)
        keys = list(_continued(prompts, shared)) if shared else []
        keys += fresh.fresh(blocks - len(keys))
        request.keys = keys
        prompts.appendleft(keys)


def _continued(prompts: deque[Sequence[int]], blocks: int) -> Sequence[int]:
    """So many leading keys of an earlier prompt, fewer if all are shorter."""
    long_enough = [keys for keys in prompts if len(keys) >= blocks]
    if long_enough:
        return min(long_enough, key=len)[:blocks]
    return max(prompts, key=len, default=[])
