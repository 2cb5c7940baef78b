"""The same replica for all requests of a session, unless it has more than its share in flight.

Rendezvous hashing (Thaler and Ravishankar, IEEE/ACM ToN 6(1), 1998) with bounded loads (Mirrokni, Thorup and
Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from xxhash import xxh3_64_intdigest

from router.load import ReplicaLoad
from router.policies.least_requests import LeastRequests
from router.policies.ties import requests_at
from router.types import Features

FACTOR = 1.25
"""No replica gets more than this many times the mean of requests in flight, rounded up."""


class Session:
    """Each session has an order of the replicas, by a hash of both names; the first that is not full gets the request.

    A replica that comes or goes moves only the sessions that it gets or had. Every gateway finds the same order and
    keeps no state. A request without a session goes where the fewest are in flight.
    """

    needs_prefix = False

    def __init__(self, rng: random.Random) -> None:
        self._otherwise = LeastRequests(rng)

    def choose(self, features: Features, replicas: Sequence[ReplicaLoad]) -> int:
        if not features.session:
            return self._otherwise.choose(features, replicas)
        if len(replicas) == 1:
            return 0
        limit = _limit(replicas)
        seed = xxh3_64_intdigest(features.session)
        chosen, highest = 0, -1
        for i, replica in enumerate(replicas):
            weight = xxh3_64_intdigest(replica.name, seed)
            if weight > highest and requests_at(replica) < limit:
                chosen, highest = i, weight
        return chosen

    def terms(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[Mapping[str, float]]:
        """`place`: in the session's order, 0 is its home. Those that are full come after all others."""
        if not features.session:
            return self._otherwise.terms(features, replicas)
        limit = _limit(replicas)
        seed = xxh3_64_intdigest(features.session)
        order = sorted(range(len(replicas)), key=lambda i: -xxh3_64_intdigest(replicas[i].name, seed))
        told: list[Mapping[str, float]] = []
        for i, replica in enumerate(replicas):
            place, requests = order.index(i), requests_at(replica)
            full = 0 if requests < limit else len(replicas)
            told.append({"place": place, "in_flight": requests, "limit": limit, "cost": place + full})
        return told


def _limit(replicas: Sequence[ReplicaLoad]) -> int:
    """At so many requests in flight a replica is full. It is over the mean, so never are all of them."""
    return math.ceil(FACTOR * (sum(map(requests_at, replicas)) + 1.0) / len(replicas))
