"""What may be called: deployments, their variants, and the replicas that serve them. Built once from the config."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engines.base import Timeouts
from gateway.config import Config
from gateway.errors import Forbidden, NotFound
from gateway.identity import Caller
from gateway.pools import Pool
from gateway.replicas import Replica
from router.policies import POLICIES
from router.types import Policy


@dataclass(frozen=True, slots=True)
class Variant:
    """One build of a deployment. `engine_model` is the name its engines know it by."""

    name: str
    engine_model: str
    weight: float
    pools: tuple[Pool, ...]

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """Those of all its pools, at this moment."""
        pools = self.pools
        if len(pools) == 1:
            return pools[0].replicas
        return tuple(replica for pool in pools for replica in pool.replicas)


@dataclass(frozen=True, slots=True)
class Deployment:
    name: str
    variants: tuple[Variant, ...]
    policy: Policy
    timeouts: Timeouts
    attempts: int

    def draw_variant(self, rng: random.Random) -> Variant:
        """A variant by weight."""
        if len(self.variants) == 1:
            return self.variants[0]
        return rng.choices(self.variants, [v.weight for v in self.variants])[0]


class Catalog:
    def __init__(self, config: Config, pools: Mapping[str, Pool], rng: random.Random) -> None:
        self._by_name: dict[str, Deployment] = {}
        self.deployments: list[Deployment] = []
        for name, options in config.deployments.items():
            limits = options.timeouts
            variants = tuple(
                Variant(key, v.model or name, v.weight, tuple(pools[pool] for pool in v.pools))
                for key, v in options.variants.items()
            )
            deployment = Deployment(
                name=name,
                variants=variants,
                policy=POLICIES[options.policy](rng),
                timeouts=Timeouts(limits.connect_s, limits.ttft_s, limits.idle_s, limits.total_s),
                attempts=options.attempts,
            )
            self.deployments.append(deployment)
            for known_as in (name, *options.aliases):
                self._by_name[known_as] = deployment

    def resolve(self, model: str, caller: Caller) -> Deployment:
        """The deployment that `model` names, if the caller may use it.

        Raises:
            NotFound: nothing is called that.
            Forbidden: the caller's key does not allow it.
        """
        deployment = self._by_name.get(model)
        if deployment is None:
            message = f"The model {model[:200]!r} does not exist. GET /v1/models lists those that do."
            raise NotFound(message, code="model_not_found", param="model")
        if not caller.may_call(deployment.name):
            message = f"Key {caller.key_name!r} may not call {model!r}; its `deployments` setting does not list it."
            raise Forbidden(message, code="model_not_allowed", param="model")
        return deployment

    def visible(self, caller: Caller) -> list[Deployment]:
        return [d for d in self.deployments if caller.may_call(d.name)]


def build_pools(config: Config, replica_for: Callable[[str, str, str], Replica]) -> dict[str, Pool]:
    """The pools by name; `replica_for(pool, replica name, url)` makes one replica."""
    return {
        name: Pool(
            name, options.site, tuple(replica_for(name, f"{name}-{i}", url) for i, url in enumerate(options.urls))
        )
        for name, options in config.pools.items()
    }
