"""What others have at a replica, from what engines and other gateways tell; the own books need no correction (R07).

Nothing here makes a replica eligible or not. News that is late loses its weight, and what is missing counts for
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.load import ReplicaLoad

FRESH = 1.5
"""Intervals in which a snapshot has its full weight: the next one may be late by as much as it is jittered."""
STALE = 3.0
"""Intervals after which it has none."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Of requests in flight at one replica: how many, and their tokens as `ReplicaLoad` counts them."""

    in_flight: float = 0.0
    prefill_tokens: float = 0.0
    context_tokens: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.in_flight + other.in_flight,
            self.prefill_tokens + other.prefill_tokens,
            self.context_tokens + other.context_tokens,
        )

    @classmethod
    def of(cls, load: ReplicaLoad) -> Sums:
        return cls(load.in_flight, load.prefill_tokens, load.context_tokens)


NONE = Sums()


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """What an engine told of its load at one moment.

    running, waiting:     requests.
    kv_usage:             share of the KV cache in use, 0 to 1; None: unknown.
    kv_capacity_tokens:   tokens that fit the KV cache; 0: unknown.
    block_tokens:         tokens in a block of it; 0: unknown.
    mean_uncached_tokens: of a prompt, on the average; 0.0: unknown.
    at_s:                 when it was asked, monotonic seconds.
    every_s:              how often it is asked.
    known:                what the gateways that share their books had there at that moment; the rest is foreign.
    known_waiting:        of these, requests without a first token, as far as this gateway can tell.
    """

    running: float
    waiting: float
    kv_usage: float | None = None
    kv_capacity_tokens: int = 0
    block_tokens: int = 0
    mean_uncached_tokens: float = 0.0
    at_s: float = 0.0
    every_s: float = 5.0
    known: Sums = NONE
    known_waiting: float = 0.0

    def weight(self, now_s: float) -> float:
        """1.0 while it is fresh, falling evenly to 0.0 once it is stale."""
        age = (now_s - self.at_s) / self.every_s
        return min(1.0, max(0.0, (STALE - age) / (STALE - FRESH)))

    @property
    def foreign(self) -> Sums:
        """What nobody has on his books that is known here. It errs on the side of too little."""
        in_flight = max(0.0, self.running + self.waiting - self.known.in_flight)
        waiting = min(in_flight, max(0.0, self.waiting - self.known_waiting))
        resident = (self.kv_usage or 0.0) * self.kv_capacity_tokens
        context_tokens = max(0.0, resident - self.known.context_tokens) if in_flight else 0.0
        return Sums(in_flight, waiting * self.mean_uncached_tokens, context_tokens)


def correct(load: ReplicaLoad, snapshot: EngineSnapshot | None, peers: Sums, now_s: float) -> None:
    """Set `others_*` of `load`, and the size of its KV cache where the engine tells it.

    peers: what those others have there who say so themselves.
    """
    others = peers
    if snapshot is not None:
        if snapshot.kv_capacity_tokens:
            load.kv_capacity_tokens = snapshot.kv_capacity_tokens
        weight = snapshot.weight(now_s)
        if weight:
            foreign = snapshot.foreign
            others = Sums(
                peers.in_flight + weight * foreign.in_flight,
                peers.prefill_tokens + weight * foreign.prefill_tokens,
                peers.context_tokens + weight * foreign.context_tokens,
            )
    load.others_in_flight = others.in_flight
    load.others_prefill_tokens = others.prefill_tokens
    load.others_context_tokens = others.context_tokens
