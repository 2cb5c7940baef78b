"""Every policy, by the name that the configuration uses."""

from __future__ import annotations

import random
from collections.abc import Callable

from router.policies.cache_aware import CacheAware
from router.policies.kv_cost import KvCost
from router.policies.least_requests import LeastRequests
from router.policies.lmetric import LMetric
from router.policies.marginal_latency import MarginalLatency
from router.policies.power_of_two import PowerOfTwo
from router.policies.round_robin import RoundRobin
from router.policies.session import Session
from router.policies.uniform import Uniform
from router.policies.weighted_scorers import WeightedScorers
from router.types import Policy

POLICIES: dict[str, Callable[[random.Random], Policy]] = {
    "marginal_latency": MarginalLatency,
    "least_requests": LeastRequests,
    "power_of_two": PowerOfTwo,
    "session": Session,
    "round_robin": lambda rng: RoundRobin(),
    "random": Uniform,
    "cache_aware": CacheAware,
    "kv_cost": KvCost,
    "lmetric": LMetric,
    "weighted_scorers": WeightedScorers,
}
