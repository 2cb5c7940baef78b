"""A trace as the simulator plays it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class BadTrace(Exception):
    """A trace cannot be read; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and for what; empty: the trace does not say.

    tenant: who is charged. key: the name of the API key. sensitivity: the class that decides where it may go.
    """

    tenant: str = ""
    key: str = ""
    deployment: str = ""
    sensitivity: str = ""


ANYONE = Caller()


@dataclass(slots=True)
class Request:
    """One row.

    keys:    one per full block of the prompt but the last token, each for the block and all that came before it.
    session: what keeps the requests of one conversation together; empty: the trace does not say.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    keys: Sequence[int] = ()
    caller: Caller = ANYONE
    session: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their arrival.

    jitter_s: arrivals were rounded; the true ones lie up to this much later.
    skipped:  rows that cannot be played.
    """

    name: str
    requests: list[Request]
    block_tokens: int
    jitter_s: float = 0.0
    skipped: int = 0

    def arrivals(self, seed: int, scale: float) -> list[Request]:
        """The requests as one run sees them: jittered by the seed, at `scale` times the speed, from second 0 on."""
        rng = random.Random(f"{seed}:arrivals")  # noqa: S311 - it must repeat
        jitter_s = self.jitter_s
        rows = [
            Request(
                (r.arrival_s + rng.random() * jitter_s) / scale,
                r.prompt_tokens,
                r.output_tokens,
                r.keys,
                r.caller,
                r.session,
            )
            for r in self.requests
        ]
        rows.sort(key=lambda row: row.arrival_s)
        return rows


def unreadable(path: Path, error: OSError | UnicodeDecodeError) -> BadTrace:
    return BadTrace(f"{path}: {error.strerror if isinstance(error, OSError) else 'not UTF-8 text'}")


def trace_of(path: Path, requests: list[Request], block_tokens: int, jitter_s: float = 0.0, skipped: int = 0) -> Trace:
    """From second 0 on.

    Raises:
        BadTrace: there are none.
    """
    if not requests:
        raise BadTrace(f"{path}: no requests in it" + (f"; {skipped} lines have no tokens" if skipped else ""))
    requests.sort(key=lambda request: request.arrival_s)
    first_s = requests[0].arrival_s
    for request in requests:
        request.arrival_s -= first_s
    return Trace(path.name, requests, block_tokens, jitter_s, skipped)
