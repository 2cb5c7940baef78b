"""What each request came to, in columns: a long test has millions of gaps between tokens."""

from __future__ import annotations

import enum
import math
from array import array
from collections import Counter
from dataclasses import dataclass, field

NEVER = math.nan


class Failure(enum.IntEnum):
    """How a request failed."""

    NONE = 0
    CONNECT = enum.auto()
    """No connection could be made."""
    CUT = enum.auto()
    """The connection ended before the answer did."""
    TIMEOUT = enum.auto()
    """The client's own time limit."""
    STATUS = enum.auto()
    """An answer other than 2xx."""
    MALFORMED = enum.auto()
    """Bytes that are no HTTP, or a body that is not what was asked for."""
    ERROR_EVENT = enum.auto()
    """The stream said `error`."""
    NO_DONE = enum.auto()
    """The stream ended in good order, but without `[DONE]`."""
    HUNG_UP = enum.auto()
    """The client went away, as it was told to."""


@dataclass(slots=True)
class Outcome:
    """One request as it goes on. Times are monotonic seconds.

    due_s:    when it was to start; `sent_s` is later if the client could not keep up.
    sent_s:   when it was sent; for the first one on a connection, when connecting began.
    first_s:  first non-empty content of a stream.
    last_s:   latest content of a stream.
    tokens:   of the answer, by its usage; without that, chunks with content.
    """

    due_s: float
    sent_s: float
    streams: bool = False
    first_s: float = NEVER
    last_s: float = NEVER
    end_s: float = NEVER
    chunks: int = 0
    tokens: int | None = None
    status: int = 0
    failure: Failure = Failure.NONE
    gaps_s: list[float] = field(default_factory=list)


def _floats() -> array[float]:
    return array("d")


def _ints() -> array[int]:
    return array("q")


@dataclass(slots=True)
class Results:
    """A row for each request that ended; times in seconds, NaN for what did not happen.

    started_s: since the beginning of the load.
    lag_s:     from when it was due until it was sent.
    ttft_s:    sent to first non-empty content.
    e2e_s:     sent to end of the answer.
    tpot_s:    (e2e - TTFT) / (output tokens - 1).
    gap_s:     ITL, between content chunks: those of all requests in a row; those of row i end before `gap_ends[i]`.
    wall_s:    how long the load took.
    """

    started_s: array[float] = field(default_factory=_floats)
    lag_s: array[float] = field(default_factory=_floats)
    ttft_s: array[float] = field(default_factory=_floats)
    e2e_s: array[float] = field(default_factory=_floats)
    tpot_s: array[float] = field(default_factory=_floats)
    tokens: array[int] = field(default_factory=_ints)
    chunks: array[int] = field(default_factory=_ints)
    status: array[int] = field(default_factory=_ints)
    failure: array[int] = field(default_factory=_ints)
    gap_s: array[float] = field(default_factory=_floats)
    gap_ends: array[int] = field(default_factory=_ints)
    began_s: float = 0.0
    wall_s: float = 0.0

    def __len__(self) -> int:
        return len(self.e2e_s)

    def add(self, outcome: Outcome) -> None:
        e2e_s, ttft_s = outcome.end_s - outcome.sent_s, outcome.first_s - outcome.sent_s
        tokens = outcome.chunks if outcome.tokens is None else outcome.tokens
        self.started_s.append(outcome.sent_s - self.began_s)
        self.lag_s.append(outcome.sent_s - outcome.due_s)
        self.ttft_s.append(ttft_s)
        self.e2e_s.append(e2e_s)
        self.tpot_s.append((e2e_s - ttft_s) / (tokens - 1) if tokens > 1 else NEVER)
        self.tokens.append(tokens)
        self.chunks.append(outcome.chunks)
        self.status.append(outcome.status)
        self.failure.append(outcome.failure)
        self.gap_s.extend(outcome.gaps_s)
        self.gap_ends.append(len(self.gap_s))

    def failures(self) -> Counter[Failure]:
        """How often each kind of failure happened; successes are not in it."""
        return Counter(Failure(number) for number in self.failure if number)

    def gaps_of(self, row: int) -> array[float]:
        return self.gap_s[self.gap_ends[row - 1] if row else 0 : self.gap_ends[row]]
