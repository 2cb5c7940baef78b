"""The lowest of several costs; among equals, any."""

from __future__ import annotations

import random
from collections.abc import Sequence

from router.load import ReplicaLoad


def lowest(costs: Sequence[float] | Sequence[tuple[float, ...]], rng: random.Random) -> int:
    """The index of the lowest cost, drawn among equals. A tuple's later figures decide where the first are equal."""
    best = min(costs)
    ties = [i for i, cost in enumerate(costs) if cost == best]
    return ties[0] if len(ties) == 1 else rng.choice(ties)


def requests_at(replica: ReplicaLoad) -> float:
    """Requests in flight there, those of others included as far as they are known."""
    return replica.in_flight + replica.others_in_flight
