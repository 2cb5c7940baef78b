"""One line per request: JSON for machines, or aligned text for a terminal. Never content, never credentials."""

from __future__ import annotations

import os
import re
import sys
import time
from typing import Final

import msgspec

from gateway.config import AccessLog as Options
from gateway.record import Record
from gateway.telemetry.prefix_marks import marks
from gateway.telemetry.redact import Redactor
from gateway.telemetry.writer import LineWriter

_ORDINARY_ID: Final = re.compile(r"(?:req|chatcmpl|cmpl)?[-_]?[0-9a-f-]{16,64}")


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """The JSON line. What does not apply to a request is left out."""

    time: str
    """RFC 3339, UTC: when the client had its last byte."""
    request_id: str
    method: str
    path: str
    status: int
    duration_ms: float
    overhead_ms: float
    client: str = ""
    tenant: str = ""
    key: str = ""
    """Name of the key."""
    deployment: str = ""
    variant: str = ""
    pool: str = ""
    replica: str = ""
    error: str = ""
    stream: bool = False
    ttft_ms: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    estimated: bool = False
    finish_reason: str = ""
    attempts: int = 0
    cache: str = ""
    bytes_out: int = 0
    trace_id: str = ""
    sensitivity: str = ""
    fallback: str = ""
    """The deployment that was asked in place of `deployment`."""
    fallback_reason: str = ""
    route: str = ""
    """Why the replica was chosen: prefix, load, only or retry."""
    predicted_ttft_ms: float | None = None
    """From the choice of the replica to the first token."""
    tokens_predicted_cached: int = 0
    queued_ms: float | None = None
    """In the queue for a place at a replica; left out if it did not wait."""
    hedged: bool = False
    retry_denied: bool = False
    prefix: list[str] = []
    """See `gateway.telemetry.prefix_marks`."""
    prefix_block_tokens: float = 0.0
    """Length of a block of `prefix`, as far as it was known."""


class AccessLog:
    """Writes a line per request through a `LineWriter`.

    deployments: names that need no cleaning; any other is what a client made up.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, options: Options, redactor: Redactor, deployments: frozenset[str]) -> None:
        self._redactor = redactor
        secret = options.prefix_secret
        self._prefix_secret = None if secret is None else secret.get_secret_value().encode()
        self._clean: dict[str, str] = {}
        self.know(deployments)
        self._encode = msgspec.json.Encoder().encode
        self._stamp = _Stamp()
        self._pretty: Pretty | None = None
        if options.format == "pretty":
            self._pretty = Pretty(colour=options.path == "-" and _wants_colour())
        self._writer = LineWriter(options.path)

    def know(self, deployments: frozenset[str]) -> None:
        self._clean.update((name, name) for name in deployments)

    @property
    def dropped(self) -> int:
        return self._writer.dropped

    def write(self, record: Record, trace_id: str) -> None:
        line = self._line(record, trace_id)
        if self._pretty is None:
            self._writer.write(self._encode(line) + b"\n")
        else:
            self._writer.write(self._pretty.format(line).encode())

    def reopen(self) -> None:
        self._writer.reopen()

    def close(self) -> None:
        self._writer.close()

    def _line(self, record: Record, trace_id: str) -> Line:
        usage = record.usage
        first_s, started_s = record.first_token_s, record.started_s
        duration_s = record.ended_s - started_s
        overhead_s = duration_s - record.upstream_s
        return Line(
            self._stamp.now(),
            record.request_id if record.own_id else self._id(record.request_id),
            record.method,
            self._text(record.path),
            record.status,
            round(duration_s * 1e3, 3),
            round(overhead_s * 1e3, 3) if overhead_s > 0.0 else 0.0,
            record.client,
            record.tenant,
            record.key_name,
            self._text(record.deployment),
            record.variant,
            record.pool,
            record.replica,
            self._text(record.error_type) if record.error_type else "",
            record.stream,
            round((first_s - started_s) * 1e3, 3) if first_s else None,
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            usage.estimated,
            self._text(record.finish_reason),
            record.attempts,
            record.cache,
            record.bytes_out,
            trace_id,
            record.sensitivity,
            record.fallback,
            record.fallback_reason,
            record.route_reason,
            round(record.predicted_ttft_s * 1e3, 3) if record.chosen_s else None,
            record.predicted_cached_tokens,
            round(record.queued_s * 1e3, 3) if record.queue_position else None,
            record.hedged,
            record.retry_denied,
            [] if self._prefix_secret is None else marks(record.prefix.keys, self._prefix_secret),
            round(record.prefix.block_tokens, 2) if self._prefix_secret is not None and record.prefix.keys else 0.0,
        )

    def _id(self, text: str) -> str:
        """Ids differ every time, so remembering them is of no use; those of the usual shape need no cleaning."""
        if _ORDINARY_ID.fullmatch(text) and not self._redactor.knows(text):
            return text
        return self._redactor.shown(text)

    def _text(self, text: str) -> str:
        """What a client chose, fit to be shown: short, printable, without query and secrets. Remembers common ones."""
        known = self._clean.get(text)
        if known is None:
            known = self._redactor.shown(text)
            if len(self._clean) > 1_000:
                self._clean.clear()
            self._clean[text] = known
        return known


class _Stamp:
    """RFC 3339 in UTC to the millisecond; the part down to the second is made once a second."""

    __slots__ = ("_prefix", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""

    def now(self) -> str:
        second, rest_ns = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        return f"{self._prefix}{rest_ns // 1_000_000:03d}Z"


def _wants_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Pretty:
    """Columns for people: time, status, duration, first token, tokens in and out, model, where it ran, who asked."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour

    def format(self, line: Line) -> str:
        ttft = _span(line.ttft_ms) if line.ttft_ms is not None else "-"
        tokens = f"{'~' if line.estimated else ''}{line.tokens_in}→{line.tokens_out}"
        model = line.deployment or f"{line.method} {line.path}"
        where = "cache" if line.cache in ("hit", "semantic") else line.replica or line.pool or "-"
        columns = [
            self._paint("2", line.time[11:23]),
            self._paint(_status_colour(line), f"{line.status:>3}"),
            f"{_span(line.duration_ms):>7}",
            f"ttft {ttft:>6}",
            f"{tokens:>11} tok",
            f"{model:<24}",
            f"{where:<20}",
            line.key or line.tenant or line.client or "-",
        ]
        if line.error:
            columns.append(self._paint("31", line.error))
        columns.append(self._paint("2", line.request_id))
        return "  ".join(columns) + "\n"

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def _status_colour(line: Line) -> str:
    if line.status >= 500 or (line.error and line.status < 400):
        return "31"
    return "33" if line.status >= 400 else "32"


def _span(ms: float) -> str:
    """A duration in at most six characters."""
    if ms < 10:
        return f"{ms:.1f}ms"
    return f"{ms:.0f}ms" if ms < 10_000 else f"{ms / 1e3:.1f}s"
