"""Traces: who asked when, with how many tokens, and which blocks the prompts share. Mooncake, Azure, the access log."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import msgspec

MOONCAKE_BLOCK_TOKENS = 512
BLOCK_TOKENS = 16
"""Where a trace says nothing of blocks: what engines use by default."""
JITTER_S = 3.0
"""Mooncake's timestamps come in bunches this far apart."""


class BadTrace(Exception):
    """A trace cannot be read; the message says where and why."""


@dataclass(slots=True)
class Request:
    """One row.

    keys:    one per full block of the prompt but the last token, each for the block and all that came before it.
    tenant:  who is charged; empty: the trace does not say.
    session: what keeps the requests of one conversation together; empty: the trace does not say.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    keys: Sequence[int] = ()
    tenant: str = ""
    session: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their arrival.

    jitter_s: arrivals were rounded; the true ones lie up to this much later.
    prefixes: whether anything is known of shared prefixes.
    """

    name: str
    requests: list[Request]
    block_tokens: int
    jitter_s: float = 0.0
    prefixes: bool = True

    def arrivals(self, seed: int, scale: float) -> list[Request]:
        """The requests as one run sees them: jittered by the seed, at `scale` times the speed, from second 0 on."""
        rng = random.Random(f"{seed}:arrivals")  # noqa: S311 - it must repeat
        rows = [replace(r, arrival_s=(r.arrival_s + rng.random() * self.jitter_s) / scale) for r in self.requests]
        rows.sort(key=lambda row: row.arrival_s)
        return rows


class _MooncakeRow(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]


def read_trace(path: Path, limit: int | None = None) -> Trace:
    """The first `limit` requests of a trace in any of the known formats.

    Raises:
        BadTrace: it cannot be read, is of no known format, or has a bad line.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            head = lines.readline()
            lines.seek(0)
            if head.lstrip("\ufeff").startswith("TIMESTAMP,"):
                return _azure(path, lines, limit)
            if '"hash_ids"' in head:
                return _mooncake(path, lines, limit)
    except (OSError, UnicodeDecodeError) as error:
        raise BadTrace(f"{path}: {error.strerror if isinstance(error, OSError) else 'not UTF-8 text'}") from error
    raise BadTrace(
        f"{path}:1: neither a Mooncake trace (JSON lines with `hash_ids`), nor an Azure trace (CSV that begins "
        "with TIMESTAMP), nor an access log of this gateway (JSON lines with `time`)"
    )


def _mooncake(path: Path, lines: Iterator[str], limit: int | None) -> Trace:
    decode = msgspec.json.Decoder(_MooncakeRow).decode
    requests: list[Request] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if limit is not None and len(requests) >= limit:
            break
        try:
            row = decode(line)
        except msgspec.MsgspecError as error:
            raise BadTrace(f"{path}:{number}: {error}") from None
        keys = row.hash_ids[: max(0, row.input_length - 1) // MOONCAKE_BLOCK_TOKENS]
        requests.append(_request(path, number, row.timestamp / 1e3, row.input_length, row.output_length, keys))
    return _trace(path, requests, MOONCAKE_BLOCK_TOKENS, JITTER_S)


def _azure(path: Path, lines: Iterator[str], limit: int | None) -> Trace:
    requests: list[Request] = []
    start: datetime | None = None
    for number, row in enumerate(csv.reader(lines), 1):
        if number == 1 or not row:
            continue
        if limit is not None and len(requests) >= limit:
            break
        try:
            at, prompt, output = datetime.fromisoformat(row[0][:26]), int(row[1]), int(row[2])
        except (ValueError, IndexError):
            problem = "is not TIMESTAMP,ContextTokens,GeneratedTokens"
            raise BadTrace(f"{path}:{number}: {','.join(row)[:100]!r} {problem}") from None
        start = start or at
        requests.append(_request(path, number, (at - start).total_seconds(), prompt, output, ()))
    return _trace(path, requests, BLOCK_TOKENS, prefixes=False)


def _request(
    path: Path, number: int, arrival_s: float, prompt: int, output: int, keys: Sequence[int], tenant: str = ""
) -> Request:
    if prompt < 0 or output < 0:
        raise BadTrace(f"{path}:{number}: {min(prompt, output)} tokens; a length cannot be negative")
    return Request(arrival_s, max(1, prompt), max(1, output), keys, tenant)


def _trace(
    path: Path, requests: list[Request], block_tokens: int, jitter_s: float = 0.0, *, prefixes: bool = True
) -> Trace:
    if not requests:
        raise BadTrace(f"{path}: no requests in it")
    requests.sort(key=lambda request: request.arrival_s)
    first_s = requests[0].arrival_s
    for request in requests:
        request.arrival_s -= first_s
    return Trace(path.name, requests, block_tokens, jitter_s, prefixes)
