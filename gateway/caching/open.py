"""The response cache of a worker, put together, started and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from typing import TYPE_CHECKING

from cache.entry import Judged, Record
from cache.journal.memory import MemoryJournal
from cache.journal.seam import Journal
from cache.library import Library
from cache.planted import record_of
from cache.semantics.cohort import Cohort
from cache.semantics.seam import Bound
from cache.signals import read_signals
from gateway.caching.desk import Desk, Spread
from gateway.caching.flights import Flights
from gateway.caching.front import ResponseCache
from gateway.caching.judge import Labeller, Wish
from gateway.caching.metrics import watch_cache
from gateway.caching.own_calls import OwnCalls
from gateway.caching.places import Places
from gateway.caching.semantic import Semantic
from gateway.caching.tally import Tally
from gateway.catalog import Catalog
from gateway.clock import Clock, wall_time_s
from gateway.config import Config
from gateway.config.cache_options import Cache as Options
from gateway.dispatch import Dispatcher
from gateway.limits.used import Bookkeeper
from gateway.prices import PriceTable, shipped
from gateway.prices.overrides import overrides_of
from gateway.process.machine import state_folder
from gateway.redis_client import hang_up, open_client
from gateway.telemetry import Telemetry

if TYPE_CHECKING:
    from cache.embed.two_stage import TwoStage

logger = logging.getLogger(__name__)

FILE = "cache.sqlite"
TIDY_S = 1.0
WORK_S = 0.004
"""Between two slices of what the library put off."""
TELL_USED_S = 10.0
"""Between two records of what was served, by which all workers judge what is worth keeping."""
AGAIN_S = 30.0
"""After the embedder could not be had."""
JOURNAL_SHARE = 16
"""The file may be so many times as large as the memory of a worker."""


class Caching:
    """Of one worker.

    Raises:
        ValueError: `redis` has an option that the client does not know.
        OSError: `redis.ca_file` cannot be read.
    """

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        dispatcher: Dispatcher,
        telemetry: Telemetry,
        rooms: Iterable[Sized],
        clock: Clock,
        rng: random.Random,
        *,
        worker_id: int,
        spread: Spread | None,
        wall_s: Callable[[], float] = wall_time_s,
    ) -> None:
        options = self._options = config.cache
        self._clock = clock
        self._wall_s = wall_s
        semantic = options.semantic
        bound = Bound(semantic.max_wrong_hit_rate, semantic.confidence, semantic.audit_share)
        self._library = Library(
            Cohort, bound, max_bytes=options.max_bytes, read_signals=read_signals, me=secrets.token_hex(8)
        )
        self._journal, stays_here = _journal(config, wall_s)
        tally = Tally()
        self._places = Places(options, {name: one.cache for name, one in config.deployments.items()}, rng)
        self._labeller: Labeller | None = None
        self._semantic: Semantic | None = None
        if semantic.enabled:
            calls = OwnCalls(catalog, dispatcher, telemetry, clock, rooms, PriceTable(shipped(), overrides_of(config)))
            labeller = self._labeller = self._labels(calls, rng, telemetry.label_lag)
            self._semantic = Semantic(self._library, labeller, tally, self._tell, rng, wall_s, bound.neighbours)
        judge = semantic.judge.deployment or ""
        flights = Flights(config.server.sse_keepalive_s)
        self.desk = Desk(
            self._library,
            self._tell,
            tally,
            flights,
            self._journal.status,
            self._labeller,
            judge=judge,
            worker_id=worker_id,
            spread=spread,
        )
        self.front = ResponseCache(
            options,
            self._places,
            self._library,
            flights,
            self._semantic,
            self.desk,
            tally,
            Bookkeeper(config),
            clock,
            tell=self._tell,
            wall_s=wall_s,
            stays_here=stays_here,
        )
        watch_cache(telemetry, self.desk)
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"<Caching {self._library!r} {self._journal.status().name}>"

    async def start(self) -> None:
        """Know what is kept already, as far as that can be told within two seconds."""
        await self._journal.start(self._library)
        self._take_secret()
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self._tidy()))
        if self._semantic is not None and self._labeller is not None:
            self._labeller.start()
            self._tasks.append(loop.create_task(self._get_embedder(self._semantic)))

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self.front.aclose()
        if self._labeller is not None:
            await self._labeller.aclose()
        await self._journal.aclose()
        if self._semantic is not None and self._semantic.embedder is not None:
            await self._semantic.embedder.aclose()

    def _labels(self, calls: OwnCalls, rng: random.Random, lag: Callable[[float], None]) -> Labeller:
        options = self._options.semantic
        return Labeller(
            options.judge,
            calls,
            self._judged,
            self._clock,
            rng,
            error=self._library.judge(record_of(options.judge.deployment or "")),
            max_wrong=options.max_wrong_hit_rate,
            lag=lag,
            lost=self._lost,
            wall_s=self._wall_s,
        )

    def _tell(self, record: Record) -> None:
        self._journal.append(record)

    def _judged(self, judged: Judged) -> None:
        assert self._semantic is not None
        self._semantic.judged(judged)

    def _lost(self, wish: Wish) -> None:
        if wish.source == "audit":
            cohort = self._library.cohorts.get(wish.cohort)
            if cohort is not None:
                cohort.lost(wish.look)

    def _take_secret(self) -> None:
        given = self._options.secret
        self._places.secret = self._journal.secret if given is None else given.get_secret_value().encode()

    async def _tidy(self) -> None:
        told_s = self._clock.monotonic()
        while True:
            await self._clock.sleep(TIDY_S)
            self._take_secret()
            now = self._wall_s()
            self._library.sweep(now)
            while self._library.work():
                await self._clock.sleep(WORK_S)
            if self._clock.monotonic() - told_s >= TELL_USED_S:
                told_s = self._clock.monotonic()
                used = self._library.used(now)
                if used is not None:
                    self._tell(used)

    async def _get_embedder(self, semantic: Semantic) -> None:
        """Until it is there, only the very same questions are answered."""
        while (embedder := await self._open()) is None:
            await self._clock.sleep(AGAIN_S)
        self._library.compare_by(embedder.name)
        semantic.embedder = embedder
        logger.info("cache: questions are compared by %s", embedder.name)

    async def _open(self) -> TwoStage | None:
        from cache.embed.seam import EmbedderError
        from gateway.caching.embedders import open_embedder

        try:
            return await open_embedder(self._options.semantic.embedder)
        except EmbedderError as error:
            logger.warning("cache: only the very same questions are answered, for want of an embedder: %s", error)
        return None


def _journal(config: Config, wall_s: Callable[[], float]) -> tuple[Journal, bool]:
    """And whether what is in it stays on this machine."""
    options = config.cache
    store = options.store
    if store == "auto":
        store = "sqlite" if config.redis is None else "redis"
    if store == "redis" and config.redis is not None:
        from cache.journal.redis import RedisJournal

        redis = config.redis
        client = open_client(redis)

        async def close() -> None:
            await hang_up(client, redis.timeout_s)

        journal = RedisJournal(client, wall_s, hang_up=close, prefix=redis.prefix, keep_s=_longest_s(config))
        return journal, False
    if store == "sqlite":
        from cache.journal.sqlite import SqliteJournal

        return SqliteJournal(_path(options), wall_s, max_bytes=options.max_bytes * JOURNAL_SHARE), True
    return MemoryJournal(), True


def _path(options: Options) -> Path:
    if options.path is not None:
        return Path(options.path).expanduser().absolute()
    folder = state_folder() / "cache"
    with contextlib.suppress(OSError):  # the journal says it
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / FILE


def _longest_s(config: Config) -> float:
    lives = [one.cache.ttl_s or config.cache.ttl_s for one in config.deployments.values()]
    return max(lives, default=config.cache.ttl_s)
