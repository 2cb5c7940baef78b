"""Builds every object of one worker and hands them to each other. The only place that knows all of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sized
from socket import socket
from typing import TYPE_CHECKING

from engines.outbox import Outbox
from gateway.api.openapi import Status
from gateway.api.routes import ApiState, create_api
from gateway.attendance import Attendance
from gateway.callers import Callers
from gateway.catalog import Catalog, build_pools
from gateway.choice import Chooser
from gateway.classifier import Classifier
from gateway.clock import Clock, RealClock
from gateway.config import Config
from gateway.config import Pool as PoolOptions
from gateway.config.queue_options import QueueOptions
from gateway.config.secrets import secrets_of
from gateway.config.version import UNVERSIONED
from gateway.discovery import discovery_of
from gateway.dispatch import Dispatcher
from gateway.engine_kinds import make_engine
from gateway.explain import Explainer
from gateway.http.asgi import AsgiHandler
from gateway.http.cors import Cors
from gateway.http.proxies import proxies_of
from gateway.http.server import SWEEP_S, HttpConnection
from gateway.http.state import ServerState
from gateway.http.tls import server_tls
from gateway.knowledge import Knowledge
from gateway.pipeline import Pipeline
from gateway.pool_keeper import MakeReplica, PoolKeeper
from gateway.pool_report import PoolList, report, states
from gateway.pools import Pool
from gateway.process.board import Turn
from gateway.process.listener import Acceptor
from gateway.reception import Reception
from gateway.replicas import Lease, Nobody, Replica
from gateway.residency import Residency
from gateway.routes import Routes
from gateway.spill import watch
from gateway.telemetry import Exposition, Redactor, Telemetry, merge, render, series
from gateway.tokens.estimator import Estimator
from gateway.usage.content import ContentLog, open_content_log, watch_content
from gateway.usage.spool import Spool, open_spool, watch_spool
from gateway.waiting_room import WaitingRoom
from gateway.warm_up import WarmUpCall, engine_models
from router.speed import Family, Speed

if TYPE_CHECKING:
    from gateway.caching.desk import Spread
    from gateway.caching.open import Caching

Metrics = Callable[[str], Awaitable[Exposition]]
Pools = Callable[[], Awaitable[PoolList]]

SETTLE_S = 10.0
"""Longest that the first answers of what pools are found by, and the first warm-ups, may delay the first request."""
LAST_GRACE_S = 0.2
"""For the request of a connection that was taken at the very end of accepting."""


class Gateway:
    """One worker's gateway.

    metrics: where `/metrics` gets its text; by default from this worker alone.
    pools:   where `/admin/pools` gets its answer; by default from this worker alone.
    clock:   goes with the loop that it runs on; by default the real one.
    version, applied_at: of the configuration; Unix time in seconds.
    spread: tells the response caches of all workers; None: there is but this one.
    feed: path of the socket at which the office tells of the database's keys; empty: there is no office.

    Raises:
        OSError: the access log, the usage spool, a certificate or a CA file cannot be opened.
        ImportError, AttributeError, TypeError: `residency.classifier` names no function.
    """

    def __init__(
        self,
        config: Config,
        *,
        worker_id: int = 0,
        metrics: Metrics | None = None,
        pools: Pools | None = None,
        spread: Spread | None = None,
        clock: Clock | None = None,
        version: str = str(UNVERSIONED),
        applied_at: float = 0.0,
        feed: str = "",
    ) -> None:
        clock = self._clock = clock or RealClock()
        rng = random.Random()  # noqa: S311 - spreads load, guards nothing
        self.config = config
        self.worker_id = worker_id
        residency = Residency(config)
        self._classifier = Classifier(config.residency, residency) if config.residency.classifier else None
        knowledge = self._knowledge = Knowledge(config, clock, rng)
        callers = self._callers = Callers(config, clock, rng, feed, knowledge.workers)
        self.ledger = callers.ledger
        content = open_content_log(config, rng, callers.organisation)
        self.telemetry = self._telemetry(open_spool(config), content)
        callers.tell(self.telemetry)
        outbox = Outbox()
        catalog, chooser = self._routing(rng, outbox)
        self._estimator = Estimator(config, catalog.deployments)
        dispatcher = Dispatcher(clock, rng, self.telemetry, chooser, callers.standing)
        caching = self._caching = self._open_cache(catalog, dispatcher, chooser.rooms, rng, spread)
        self.desk = None if caching is None else caching.desk
        """What those who run the gateway are told of the response cache; None: it is off."""
        self.pipeline = Pipeline(
            identity=callers.identity,
            residency=residency,
            classifier=self._classifier,
            catalog=catalog,
            estimator=self._estimator,
            ledger=callers.ledger,
            content=content,
            cache=None if caching is None else caching.front,
            dispatcher=dispatcher,
            telemetry=self.telemetry,
            clock=clock,
            keepalive_s=config.server.sse_keepalive_s,
        )
        explain = self._explainer(catalog, chooser, residency).explain
        now_s, metrics, pools = int(_wall_s()), metrics or self._own_metrics, pools or self._own_pools
        state = ApiState(
            callers.identity, catalog, clock, now_s, metrics, self._status, pools, explain, version, lambda: self.desk
        )
        self._tls = server_tls(config)
        self.server = self._server(state, outbox, version)
        self._acceptor: Acceptor | None = None
        self._leaving = False
        self.engines_ready = True
        """Whether the engines that the supervisor starts have loaded; without any, they have."""
        self._sweeper: asyncio.TimerHandle | None = None
        self._tell(version, applied_at)

    def _open_cache(
        self,
        catalog: Catalog,
        dispatcher: Dispatcher,
        rooms: Iterable[Sized],
        rng: random.Random,
        spread: Spread | None,
    ) -> Caching | None:
        """None: it is off."""
        if not self.config.cache.enabled:
            return None
        from gateway.caching.open import Caching

        clock, telemetry, worker_id = self._clock, self.telemetry, self.worker_id
        return Caching(
            self.config, catalog, dispatcher, telemetry, rooms, clock, rng, worker_id=worker_id, spread=spread
        )

    def _telemetry(self, spool: Spool | None, content: ContentLog | None) -> Telemetry:
        telemetry = Telemetry(
            self.config.telemetry,
            worker_id=self.worker_id,
            deployments=list(self.config.deployments),
            redactor=Redactor(secrets_of(self.config)),
            books=[books for books in (spool, content) if books is not None],
        )
        if spool is not None:
            watch_spool(telemetry, spool)
        if content is not None:
            watch_content(telemetry, content)
        return telemetry

    def _server(self, state: ApiState, outbox: Outbox, version: str) -> ServerState:
        """What serves connections. Each answer names the version of the configuration."""
        options, telemetry = self.config.server, self.telemetry
        api = AsgiHandler(create_api(state), "https" if self._tls else "http")
        cors = Cors(options.cors_origins) if options.cors_origins else None
        routes = Routes(Reception(telemetry, self._clock), self.pipeline, api, cors)
        proxies = proxies_of(options.trusted_proxies)
        server = ServerState(options, routes.route, routes.refusal, telemetry.connections, outbox, cors, proxies)
        server.version = version
        return server

    def _tell(self, version: str, applied_at: float) -> None:
        """What the metrics say of this worker. Of the configuration only until others serve in its place."""
        telemetry, server = self.telemetry, self.server
        telemetry.watch(series.REPLICA_IN_FLIGHT.name, self._replicas_in_flight)
        telemetry.watch(series.REPLICAS.name, self._replicas_by_state)
        telemetry.watch(series.HELD.name, self._held)
        telemetry.watch(series.CONFIG_INFO.name, lambda: [] if server.draining else [((version,), 1.0)])
        telemetry.watch(series.CONFIG_APPLIED.name, lambda: [] if server.draining else [((), applied_at)])

    def _explainer(self, catalog: Catalog, chooser: Chooser, residency: Residency) -> Explainer:
        return Explainer(
            catalog,
            chooser,
            residency,
            self._clock,
            {name: options.policy for name, options in self.config.deployments.items()},
            self._knowledge.jittered,
            classifier=self._classifier,
            standing=self._callers.standing,
            worker=self.worker_id,
            clean=self.telemetry.redactor.text,
        )

    def _routing(self, rng: random.Random, outbox: Outbox) -> tuple[Catalog, Chooser]:
        """What there is to choose among, and who chooses."""
        config, clock, knowledge, standing = self.config, self._clock, self._knowledge, self._callers.standing
        families: defaultdict[str, Family] = defaultdict(Family)

        def make(pool: str, name: str, url: str) -> Replica:
            replica = _replica(config.pools[pool], pool, name, url, outbox)
            replica.load.speed = Speed(family=families[pool])
            return replica

        def room(name: str, options: QueueOptions) -> WaitingRoom[Lease | Nobody] | None:
            return chooser.open_room(name, options, self.telemetry, standing) if options.max_waiting else None

        attendance = knowledge.attendance
        self.pools = build_pools(config, make)
        self.keepers = [_keeper(pool, config, make, clock, rng, attendance) for pool in self.pools.values()]
        knowledge.see(self.pools, self.telemetry)
        chooser = Chooser(clock, rng, knowledge.index)
        self.rooms = chooser.rooms
        """Where calls wait for a place."""
        catalog = Catalog(config, self.pools, rng, knowledge.reader, room, knowledge.jittered)
        watch(self.telemetry, [d.ladder for d in catalog.deployments if d.ladder is not None], clock.monotonic)
        return catalog, chooser

    @property
    def replicas(self) -> list[Replica]:
        """All whose engines are open, those that drain among them."""
        return [replica for pool in self.pools.values() for replica in pool.everyone]

    async def start(self, sock: socket, turn: Turn | None = None) -> None:
        """Accept connections on a bound socket, once it is known where the pools' replicas are.

        turn: the socket is shared with other workers.
        """
        loop = asyncio.get_running_loop()
        await self._knowledge.start(turn)
        await self._callers.start()
        if self._caching is not None:
            await self._caching.start()
        for keeper in self.keepers:
            keeper.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                for keeper in self.keepers:
                    await keeper.settled()
        self._sweep(loop)
        opened = self.server.open
        self._acceptor = Acceptor(sock, lambda: HttpConnection(self.server), self._tls, lambda: len(opened), turn)

    def stop_accepting(self) -> None:
        """Close the listening socket. Idempotent."""
        if self._acceptor is not None:
            self._acceptor.close()

    async def drain(self, limit_s: float, grace_s: float = 1.0, *, replaced: bool = False) -> None:
        """Let answers in flight finish for at most `limit_s`; every answer is the last of its connection.

        For `grace_s` connections are still accepted: who asks for readiness reads 503, and finds no closed port. Those
        that idle get as long to carry one more request: a client that is about to send on one is not cut off.

        replaced: others accept on the same socket. Nothing more is accepted here, and readiness stays what it was.
        """
        began_s = time.monotonic()
        self.server.drain()
        if replaced:
            self.stop_accepting()
        else:
            self._leaving = True
            await asyncio.sleep(min(grace_s, limit_s))
            self.stop_accepting()
            grace_s = LAST_GRACE_S
        if not await self.server.closed_within(min(grace_s, limit_s)):
            self.server.close_idle()
            await self.server.closed_within(limit_s - (time.monotonic() - began_s))

    async def cut_off(self) -> None:
        """End every connection, whatever it carries."""
        for room in self.rooms:
            room.close()
        for connection in list(self.server.open):
            connection.abort()
        await self.server.closed_within(1.0)

    async def aclose(self) -> None:
        """Close every connection and write out what waits."""
        self.stop_accepting()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self.cut_off()
        for keeper in self.keepers:
            await keeper.aclose()
        self._estimator.close()
        if self._caching is not None:
            await self._caching.aclose()
        await self._callers.aclose()
        await self._knowledge.aclose()
        if self._classifier is not None:
            self._classifier.close()
        await self.telemetry.aclose()

    def pool_report(self) -> PoolList:
        """What this worker sees of the pools."""
        return report(self.keepers, self.worker_id, self._clock.monotonic(), self.telemetry.redactor.text)

    async def _own_pools(self) -> PoolList:
        return self.pool_report()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self.server.sweep(loop.time())
        if self._acceptor is not None and self._acceptor.is_open:
            self._acceptor.publish()
        self._sweeper = loop.call_later(SWEEP_S, self._sweep, loop)

    def _status(self) -> Status:
        if self._leaving:
            return "draining"
        return "ok" if self.engines_ready else "starting"

    async def _own_metrics(self, accept: str) -> Exposition:
        return render(merge([self.telemetry.snapshot()]), accept)

    def _replicas_in_flight(self) -> Iterable[tuple[tuple[str, ...], float]]:
        return [((r.pool, r.name), float(r.in_flight)) for r in self.replicas]

    def _replicas_by_state(self) -> Iterable[tuple[tuple[str, ...], float]]:
        now_s = self._clock.monotonic()
        for name, pool in self.pools.items():
            for state, count in Counter(state for _, state in states(pool, now_s)).items():
                yield (name, state), float(count)

    def _held(self) -> Iterable[tuple[tuple[str, ...], float]]:
        return [((name,), float(pool.waker.held)) for name, pool in self.pools.items() if pool.waker is not None]


def _replica(options: PoolOptions, pool: str, name: str, url: str, outbox: Outbox) -> Replica:
    engine = make_engine(options.engine, name, url, outbox)
    return Replica(name, pool, options.site, options.engine.kind, engine, options.max_in_flight, url=url)


def _keeper(
    pool: Pool, config: Config, make: MakeReplica, clock: Clock, rng: random.Random, attendance: Attendance
) -> PoolKeeper:
    options = config.pools[pool.name]
    warm_up = None
    if options.warm_up is not None:
        warm_up = WarmUpCall(options.warm_up, next(iter(engine_models(config, pool.name)), pool.name))
    discovery = discovery_of(options, clock)
    return PoolKeeper(
        pool, options, make, clock=clock, rng=rng, discovery=discovery, warm_up=warm_up, attendance=attendance
    )


def _wall_s() -> float:
    return time.time()  # noqa: TID251 - for people: when the models appeared
