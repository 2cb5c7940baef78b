"""Reads traces: Mooncake's format, Azure's, and the access log."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path

import msgspec

from gateway.simulator.access_trace import read_log
from gateway.simulator.trace import BadTrace, Request, Trace, trace_of, unreadable

MOONCAKE_BLOCK_TOKENS = 512
BLOCK_TOKENS = 16
"""Where a trace says nothing of blocks: what engines use by default."""
JITTER_S = 3.0
"""Mooncake's timestamps come in bunches this far apart."""
MOST_TURNS = 16
"""A block that no more requests share than this belongs to one conversation, however short the trace."""


class _MooncakeRow(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]


def read_trace(path: Path, limit: int | None = None) -> Trace:
    """The first `limit` requests of a trace in any of the known formats; an access log of the gateway is one.

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
            if '"duration_ms"' in head:
                return read_log(path, lines, limit).trace
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    raise BadTrace(
        f"{path}:1: neither a Mooncake trace (JSON lines with `hash_ids`), nor an Azure trace (CSV that begins "
        "with TIMESTAMP), nor an access log of this gateway (JSON lines with `duration_ms`)"
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
    _name_sessions(requests)
    return trace_of(path, requests, MOONCAKE_BLOCK_TOKENS, JITTER_S)


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
    return trace_of(path, requests, BLOCK_TOKENS)


def _request(path: Path, number: int, arrival_s: float, prompt: int, output: int, keys: Sequence[int]) -> Request:
    if prompt < 0 or output < 0:
        raise BadTrace(f"{path}:{number}: {min(prompt, output)} tokens; a length cannot be negative")
    return Request(arrival_s, max(1, prompt), max(1, output), keys)


def _name_sessions(requests: Sequence[Request]) -> None:
    """A conversation is what shares a block that few share: what many share is a system prompt."""
    shared = Counter(chain.from_iterable(request.keys for request in requests))
    few = max(MOST_TURNS, len(requests) // 100)
    for request in requests:
        first = next((key for key in request.keys if shared[key] <= few), None)
        request.session = "" if first is None else str(first)
