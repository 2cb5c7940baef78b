"""One worker's ledger, as the configuration wants it."""

from __future__ import annotations

from collections.abc import Callable

from gateway.clock import Clock
from gateway.config import Config
from gateway.limits.exchange import Exchange
from gateway.limits.ledger import LimitLedger
from gateway.limits.local_store import LocalCounts, LocalStore
from gateway.limits.needed import needs_store
from gateway.limits.plan import Organisations, Planner, Teams
from gateway.limits.seam import Store
from gateway.limits.used import Bookkeeper
from gateway.telemetry import Telemetry, series


def open_ledger(
    config: Config,
    clock: Clock,
    *,
    organisation: Organisations = lambda name: None,
    team: Teams = lambda organisation, name: None,
    workers: Callable[[], int] = lambda: 1,
) -> LimitLedger:
    """
    organisation, team: what the directory has by that name.
    workers: how many there are in all gateways, as far as is known.

    Raises:
        ValueError: `redis` has an option that the client does not know.
        OSError: `redis.ca_file` cannot be read.
    """
    patience_s = config.redis.timeout_s if config.redis is not None else 1.0
    shared = Exchange(_store(config, clock), clock, patience_s=patience_s, workers=workers)
    alone = Exchange(LocalStore(LocalCounts(clock)), clock, patience_s=1.0)
    return LimitLedger(Planner(config, organisation, team), Bookkeeper(config), shared, alone, clock, workers)


def _store(config: Config, clock: Clock) -> Store:
    """Whoever limits nobody needs no server for it."""
    if config.redis is not None and needs_store(config):
        from gateway.limits.redis_store import RedisStore

        return RedisStore(config.redis, clock)
    return LocalStore(LocalCounts(clock))


def watch(telemetry: Telemetry, ledger: LimitLedger) -> None:
    """Show in the metrics how it goes."""
    telemetry.watch(series.LIMITED.name, lambda: [(key, float(count)) for key, count in ledger.refused.items()])
    telemetry.watch(
        series.PAST_SOFT_LIMIT.name, lambda: [((name,), float(count)) for name, count in ledger.past_soft.items()]
    )
    telemetry.watch(series.LIMITS_DEGRADED.name, lambda: [((), float(ledger.shared.lost))])
    telemetry.watch(series.LIMITS_LEASED.name, lambda: [((), float(ledger.shared.leased))])
