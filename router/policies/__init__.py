"""Every policy, by the name that the configuration uses."""

from __future__ import annotations

import random
from collections.abc import Callable

from router.policies.least_requests import LeastRequests
from router.policies.marginal_latency import MarginalLatency
from router.policies.round_robin import RoundRobin
from router.policies.uniform import Uniform
from router.types import Policy

POLICIES: dict[str, Callable[[random.Random], Policy]] = {
    "least_requests": LeastRequests,
    "marginal_latency": MarginalLatency,
    "round_robin": lambda rng: RoundRobin(),
    "random": Uniform,
}
