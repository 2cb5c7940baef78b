"""Which request reached which replica, and when: the engines' end of every request, as the proxies see it."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

REQUEST_ID = "x-request-id: "
FINISHED = b'"finish_reason":"stop"'
"""Stands in every complete answer of the fake engine, streamed or whole."""


@dataclass(slots=True)
class Arrival:
    """One request that reached one replica. Instants are monotonic seconds.

    kept:       it came on a connection that had carried another before.
    sent_bytes: of the answer, on towards the gateway.
    finished:   the end of the answer went on towards the gateway.
    """

    request_id: str
    replica: int
    kept: bool
    at_s: float = field(default_factory=time.monotonic)
    sent_bytes: int = 0
    finished: bool = False


class Ledger:
    """All arrivals of a run, by request."""

    def __init__(self) -> None:
        self._arrivals: defaultdict[str, list[Arrival]] = defaultdict(list)

    def of(self, request_id: str) -> list[Arrival]:
        return self._arrivals.get(request_id, [])

    def add(self, arrival: Arrival) -> None:
        self._arrivals[arrival.request_id].append(arrival)


def request_id_in(data: bytes) -> str:
    """The id of the request whose head is in `data`; empty if there is none, or not all of it."""
    _, found, rest = data.partition(REQUEST_ID.encode())
    value, ended, _ = rest.partition(b"\r\n")
    return value.decode() if found and ended else ""
