"""From a configuration to what is simulated of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from gateway.config import Config, Key
from gateway.config import Deployment as Options
from gateway.config import Pool as PoolOptions
from gateway.config.queue_options import QueueOptions
from gateway.prices import PriceTable, shipped
from gateway.prices.overrides import overrides_of
from gateway.residency import Clearance, Residency
from gateway.simulator.access_trace import Log
from gateway.simulator.calibrate import Pace, misfits, paces_of, typical
from gateway.simulator.engine import EngineCost
from gateway.simulator.plan import EngineSpec, Plan, Price, QueueSpec, Route
from gateway.simulator.run import simulate_plan

FIT_REQUESTS = 5_000
FIT_STEPS = (0.7, 0.7, 0.7, 0.5, 0.5, 0.35, 0.35, 0.25, 0.25, 0.2)
"""They become shorter: under overload, equal ones would overshoot again and again."""
_LEAST = Clearance("", level=-1)


@dataclass(frozen=True, slots=True)
class Scenery:
    """What a configuration does not say: how hard it is driven, and what its engines are.

    paces:    by pool, how fast its engines are.
    replicas: by pool, how many the log knows; for pools whose replicas are found while the gateway runs.
    """

    scale: float
    kv_tokens: int
    step_tokens: int
    paces: Mapping[str, Pace]
    replicas: Mapping[str, int]
    cost: EngineCost


def scenery(log: Log, scale: float, kv_tokens: int, step_tokens: int) -> Scenery:
    """As the log has it."""
    cost = EngineCost()
    names: dict[str, set[str]] = {}
    for one in log.measured:
        names.setdefault(one.pool, set()).add(one.replica)
    replicas = {pool: len(known) for pool, known in names.items()}
    return Scenery(scale, kv_tokens, step_tokens, paces_of(log.measured, cost), replicas, cost)


def fitted(log: Log, config: Config, seen: Scenery) -> Scenery:
    """Engines with which `config`, simulated, takes about the times that are in the log it wrote."""
    trace = replace(log.trace, requests=log.trace.requests[:FIT_REQUESTS])
    measured = log.measured[:FIT_REQUESTS]
    best, least = seen, math.inf
    for step in FIT_STEPS:
        plan = plan_of(config, replace(seen, scale=1.0))
        found = misfits(simulate_plan(trace, plan, seed=1), plan, measured)
        error = sum(abs(misfit.ttft) + abs(misfit.tpot) for misfit in found.values())
        if error < least:
            best, least = seen, error
        paces = {
            pool: found[pool].corrected(pace, step) if pool in found else pace for pool, pace in seen.paces.items()
        }
        seen = replace(seen, paces=paces)
    return best


def _parallel(key: Key) -> int | None:
    """Requests of the key in flight at once, over all workers."""
    return min((limit for limit in (key.limits.parallel, key.max_parallel) if limit is not None), default=None)


def plan_of(config: Config, seen: Scenery) -> Plan:
    """Limits per worker count once for each configured worker; `workers: 0` counts as one."""
    workers = config.server.workers or 1
    prices = _prices(config)
    specs: list[EngineSpec] = []
    numbers: dict[str, tuple[int, ...]] = {}
    others = {True: _typical(config, seen, cloud=True), False: _typical(config, seen, cloud=False)}
    for name, pool in config.pools.items():
        cloud = pool.site == "cloud"
        pace = seen.paces.get(name, others[cloud])
        limit = None if pool.max_in_flight is None else pool.max_in_flight * workers
        count = _count(name, pool, seen)
        numbers[name] = tuple(range(len(specs), len(specs) + count))
        for i in range(count):
            spec = EngineSpec(f"{name}-{i}", max_in_flight=limit, price=prices.get(name), pool=name, elastic=cloud)
            specs.append(pace.applied(spec, seen.cost))
    limits = {key.name: limit for key in config.auth.keys if (limit := _parallel(key)) is not None}
    return Plan(
        tuple(specs),
        {name: _route(config, options, numbers, workers) for name, options in config.deployments.items()},
        limits,
        _allowed(config, numbers),
        seen.scale,
        seen.kv_tokens,
        seen.step_tokens,
        cost=seen.cost,
    )


def _count(name: str, pool: PoolOptions, seen: Scenery) -> int:
    if pool.urls:
        return len(pool.urls)
    return pool.replicas if pool.started_here else seen.replicas.get(name, 1)


def _typical(config: Config, seen: Scenery, *, cloud: bool) -> Pace:
    """Of the pools at one kind of site."""
    return typical([p for name, p in seen.paces.items() if name in config.pools and _is_cloud(config, name) is cloud])


def _is_cloud(config: Config, pool: str) -> bool:
    return config.pools[pool].site == "cloud"


def _route(config: Config, options: Options, numbers: Mapping[str, tuple[int, ...]], workers: int) -> Route:
    variants = tuple(
        (variant.weight, tuple(i for pool in variant.pools for i in numbers[pool]))
        for variant in options.variants.values()
        if variant.weight
    )
    return Route(options.policy, variants, tuple(options.fallbacks.overloaded), _queue(config, options.queue, workers))


def _queue(config: Config, options: QueueOptions, workers: int) -> QueueSpec | None:
    if not options.max_waiting:
        return None
    tenants = config.tenants
    weights = {name: tenant.weight for name, tenant in tenants.items()}
    classes = {key.name: tenants[key.tenant].priority for key in config.auth.keys if key.tenant in tenants}
    return QueueSpec(
        options.max_waiting * workers,
        options.max_wait_s,
        options.hold_over_s,
        options.age_s,
        weights | options.weights,
        classes | options.classes,
    )


def _allowed(config: Config, numbers: Mapping[str, tuple[int, ...]]) -> dict[str, frozenset[int]]:
    residency = Residency(config)
    allowed: dict[str, frozenset[int]] = {}
    for name in config.residency.classes:
        pools = residency.tightened(_LEAST, (name.encode(),)).pools
        if pools is not None:
            allowed[name] = frozenset(i for pool in pools for i in numbers[pool])
    return allowed


def _prices(config: Config) -> dict[str, Price]:
    """By pool: what the model costs that it serves, the first one if there are several."""
    table = PriceTable(shipped(), overrides_of(config))
    prices: dict[str, Price] = {}
    for pool, model in _models(config):
        found = table.find(model)
        if found is not None and pool not in prices:
            prices[pool] = Price(float(found.input), float(found.output))
    return prices


def _models(config: Config) -> Iterator[tuple[str, str]]:
    for name, deployment in config.deployments.items():
        for variant in deployment.variants.values():
            for pool in variant.pools:
                yield pool, variant.model or name
