"""For a gateway that cannot see what its peers send: not all of them may take the same best replica (R06)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from router.load import ReplicaLoad
from router.types import Features, Policy

BEST = 3
"""Replicas that are drawn among."""
SLACK = 0.5
"""A replica whose cost is higher than the lowest by more than this share is not drawn: a prefix that only one holds is
worth more than what peers may have sent it unseen."""


class Jittered:
    """Implements `Policy`: what the policy chooses, and while peers cannot be seen, one of the few that are nearly as
    good."""

    def __init__(self, policy: Policy, rng: random.Random, is_blind: Callable[[], bool]) -> None:
        self._policy = policy
        self._rng = rng
        self._is_blind = is_blind
        self.needs_prefix = policy.needs_prefix

    def choose(self, features: Features, replicas: Sequence[ReplicaLoad]) -> int:
        if len(replicas) == 1 or not self._is_blind():
            return self._policy.choose(features, replicas)
        costs = [terms["cost"] for terms in self._policy.terms(features, replicas)]
        self._policy.choose(features, replicas)  # one that takes turns goes on to the next
        best = sorted(range(len(costs)), key=lambda i: (costs[i], self._rng.random()))[:BEST]
        most = costs[best[0]] + SLACK * abs(costs[best[0]])
        return self._rng.choice([i for i in best if costs[i] <= most])

    def terms(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[Mapping[str, float]]:
        return self._policy.terms(features, replicas)
