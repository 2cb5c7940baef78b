"""What may be called: deployments, their variants, and the replicas that serve them. Built once from the config."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from engines.base import Timeouts
from gateway.config import Config
from gateway.config import Deployment as Options
from gateway.config import Variant as VariantOptions
from gateway.config.queue_options import QueueOptions
from gateway.errors import Forbidden, NotFound
from gateway.hedge import Hedging
from gateway.identity import Caller
from gateway.needs import NO_NEEDS, Menu, Needs
from gateway.pools import Pool
from gateway.prices import PriceTable, shipped
from gateway.prices.overrides import overrides_of
from gateway.process.machine import usable_cores
from gateway.prompts import PromptReader
from gateway.prompts.reader import DEFAULT_BLOCK_TOKENS
from gateway.replicas import Lease, Nobody, Replica
from gateway.residency import Clearance
from gateway.shares import Share
from gateway.spill import Ladder
from gateway.tokens.limit_words import limit_words
from gateway.waiting_room import WaitingRoom
from gateway.wire import USUAL_WORDS, Call, LimitWords
from router.policies import POLICIES
from router.types import Policy


@dataclass(frozen=True, slots=True)
class Variant:
    """One build of a deployment. `engine_model` is the name its engines know it by; `reader` reads its prompts.

    limit_words: how its engines are told how long an answer may be.
    """

    name: str
    engine_model: str
    weight: float
    pools: tuple[Pool, ...]
    reader: PromptReader | None = None
    limit_words: LimitWords = USUAL_WORDS

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """Those of all its pools, at this moment."""
        pools = self.pools
        if len(pools) == 1:
            return pools[0].replicas
        return tuple(replica for pool in pools for replica in pool.replicas)

    @property
    def has_choice(self) -> bool:
        """Whether it makes a difference what a prompt says: there is more than one replica."""
        pools = self.pools
        return len(pools) > 1 or len(pools[0].replicas) > 1

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Of the KV blocks of replicas that tell of them, in tokens; if none does, the usual one."""
        if not any(pool.tells for pool in self.pools):
            return DEFAULT_BLOCK_TOKENS
        sizes = {r.watch.block_tokens for pool in self.pools for r in pool.replicas if r.watch is not None}
        return tuple(sorted(size for size in sizes if size)) or DEFAULT_BLOCK_TOKENS

    def admits(self, clearance: Clearance) -> bool:
        """Whether any of its pools may see the call."""
        return any(clearance.admits(pool.name) for pool in self.pools)


RETRY_RESERVE = 10.0
"""Retries that a deployment has at hand in a worker, however few requests it gets."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model name that callers ask for.

    fallbacks: by reason, who answers in its place; filled when every deployment is known.
    retries:   what bounds its retries.
    room:      where calls wait for a place at a replica, as `queue` says; None: they do not wait.
    menu:      what its variants offer. ladder: when calls may leave for a cloud; None: whenever the policy likes.
    """

    name: str
    variants: tuple[Variant, ...]
    policy: Policy
    timeouts: Timeouts
    attempts: int
    retries: Share = field(default_factory=lambda: Share(0.1, RETRY_RESERVE))
    hedging: Hedging | None = None
    queue: QueueOptions | None = None
    room: WaitingRoom[Lease | Nobody] | None = None
    menu: Menu = field(default_factory=lambda: Menu({}))
    ladder: Ladder | None = None
    fallbacks: dict[str, tuple[Deployment, ...]] = field(default_factory=dict)

    @property
    def hold_over_s(self) -> float | None:
        return None if self.queue is None else self.queue.hold_over_s

    def draw_variant(self, rng: random.Random, clearance: Clearance, needs: Needs = NO_NEEDS) -> Variant | None:
        """A variant by weight, of those that may see the call; None: there is none."""
        variants: Sequence[Variant] = self.variants
        if clearance.pools is not None:
            variants = [v for v in variants if v.admits(clearance)]
        variants = self.menu.fitting(variants, needs)
        weights = [v.weight for v in variants]
        if not any(weights):
            return None
        return variants[0] if len(variants) == 1 else rng.choices(variants, weights)[0]

    def serves(self, call: Call, clearance: Clearance) -> bool:
        """Whether any variant may see the call, and has what it takes."""
        variants = [v for v in self.variants if v.weight and v.admits(clearance)]
        return bool(self.menu.fitting(variants, self.menu.needs_of(call)))

    def admits(self, clearance: Clearance) -> bool:
        """Whether any replica may ever see the call."""
        return clearance.pools is None or any(v.weight and v.admits(clearance) for v in self.variants)


MakeReader = Callable[[str, str, VariantOptions], PromptReader | None]
MakeRoom = Callable[[str, QueueOptions], "WaitingRoom[Lease | Nobody] | None"]


class Catalog:
    """
    reader: makes what reads the prompts of a variant: deployment name, variant name, its options.
    room:   makes the waiting room of a deployment.
    policy: is given each policy, and returns what is asked in its place.
    """

    def __init__(
        self,
        config: Config,
        pools: Mapping[str, Pool],
        rng: random.Random,
        reader: MakeReader = lambda deployment, name, options: None,
        room: MakeRoom = lambda name, options: None,
        policy: Callable[[Policy], Policy] = lambda policy: policy,
    ) -> None:
        self._by_name: dict[str, Deployment] = {}
        self.deployments: list[Deployment] = []
        prices = PriceTable(shipped(), overrides_of(config))
        workers = config.server.workers or usable_cores()
        for name, options in config.deployments.items():
            deployment = _deployment(name, options, pools, config, reader, room, policy(POLICIES[options.policy](rng)))
            if options.spill is not None:
                ladder = Ladder(name, options.spill, deployment.variants, deployment.menu, prices, workers)
                deployment = replace(deployment, ladder=ladder)
            self.deployments.append(deployment)
            for known_as in (name, *options.aliases):
                self._by_name[known_as] = deployment
        for deployment in self.deployments:
            fallbacks = config.deployments[deployment.name].fallbacks
            for reason, names in fallbacks:
                if names:
                    deployment.fallbacks[reason] = tuple(self._by_name[one] for one in names)

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


def _deployment(
    name: str,
    options: Options,
    pools: Mapping[str, Pool],
    config: Config,
    reader: MakeReader,
    room: MakeRoom,
    policy: Policy,
) -> Deployment:
    limits, hedge = options.timeouts, options.hedge
    variants = tuple(
        Variant(
            key,
            v.model or name,
            v.weight,
            tuple(pools[pool] for pool in v.pools),
            reader(name, key, v),
            limit_words(config.pools[pool] for pool in v.pools),
        )
        for key, v in options.variants.items()
    )
    return Deployment(
        name=name,
        variants=variants,
        policy=policy,
        timeouts=Timeouts(limits.connect_s, limits.ttft_s, limits.idle_s, limits.total_s),
        attempts=options.attempts,
        retries=Share(options.retry_share, RETRY_RESERVE if options.retry_share else 0.0),
        hedging=None if hedge is None else Hedging(None if hedge.after == "p95" else hedge.after, hedge.max_share),
        menu=Menu(options.variants),
        queue=options.queue,
        room=room(name, options.queue),
    )


def build_pools(config: Config, replica_for: Callable[[str, str, str], Replica]) -> dict[str, Pool]:
    """The pools by name; `replica_for(pool, replica name, url)` makes one replica."""
    return {
        name: Pool(
            name, options.site, tuple(replica_for(name, f"{name}-{i}", url) for i, url in enumerate(options.urls))
        )
        for name, options in config.pools.items()
    }
