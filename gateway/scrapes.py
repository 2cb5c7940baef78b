"""Reads the engines' own metrics now and then. They correct the gateway's books and decide nothing (R07)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit, urlunsplit

from engines.base import EngineError, Timeouts
from engines.http import Endpoint, HttpEngine
from engines.kinds import SERVERS
from engines.metrics import Figures, read_page
from engines.metrics.page import PATHS
from gateway.clock import Clock
from gateway.config import EngineOptions
from gateway.config import Pool as Options
from gateway.config.pool_options import ScrapeOptions
from gateway.corrections import Corrections
from gateway.kinds.key import with_key
from gateway.pools import Pool
from gateway.replicas import Replica
from router.correction import EngineSnapshot, Sums

logger = logging.getLogger(__name__)

LIMITS = Timeouts(connect_s=2.0, total_s=2.0)
MAX_PAGE_BYTES = 4 * 1024 * 1024
LOOP_PAGE_BYTES = 128 * 1024
"""A larger page is read in a thread: it would hold the event loop for more than a millisecond."""
LOOK_S = 1.0
"""How often newcomers are looked for, and old news loses weight."""
MAX_PAUSE_S = 60.0
"""A replica that gives no metrics is asked again after this, at the latest."""
FINE, MISSING, FAILED = "fine", "missing", "failed"
"""How reading a page ended: there are figures; there is no page, or none with known figures; there is no answer."""
KINDS = frozenset(known.kind for known in SERVERS.values() if known.load is not None)
_MOVED = frozenset({301, 302, 307, 308})


class Scraper:
    """One for all pools of a worker. Each replica is asked by a task of its own, so that one that hangs delays nobody.

    options: of the pools, by name.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        options: Mapping[str, Options],
        corrections: Corrections,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._pools = pools
        self._options = options
        self._corrections = corrections
        self._clock = clock
        self._rng = rng
        self._watched: dict[Replica, asyncio.Task[None]] = {}
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Scraper watched={[replica.name for replica in self._watched]} {dict(self._outcomes)}>"

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self.run())

    async def aclose(self) -> None:
        """End all that goes on here. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def run(self) -> None:
        """Does not return."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._look(group)
                self._corrections.apply(self._clock.monotonic())
                await self._clock.sleep(LOOK_S)

    def outcomes(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Pages read, by pool and how it ended, for the metrics."""
        return [(labels, float(count)) for labels, count in self._outcomes.items()]

    def ages(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Seconds since each replica last told its load, for the metrics."""
        now_s = self._clock.monotonic()
        for replica in self._watched:
            snapshot = self._corrections.snapshot(replica)
            if snapshot is not None:
                yield (replica.pool, replica.name), now_s - snapshot.at_s

    def _look(self, group: asyncio.TaskGroup) -> None:
        """Begin with those that have come, and end with those that have gone."""
        present = {
            replica
            for pool in self._pools.values()
            if _is_scraped(self._options[pool.name])
            for replica in (*pool.replicas, *pool.warming)
        }
        for replica in self._watched.keys() - present:
            self._watched.pop(replica).cancel()
        for replica in present - self._watched.keys():
            self._watched[replica] = group.create_task(self._watch(replica))

    async def _watch(self, replica: Replica) -> None:
        options = self._options[replica.pool]
        every_s = options.scrape.every_s
        assert every_s is not None
        page = Page(options.engine, options.scrape, replica)
        in_vain = 0
        try:
            await self._clock.sleep(min(every_s, LOOK_S) * self._rng.random())
            while True:
                try:
                    outcome = await self.scrape(replica, page, every_s)
                except Exception:
                    logger.exception("%s: its metrics cannot be read", replica.name)
                    outcome = FAILED
                in_vain = 0 if outcome == FINE else in_vain + 1
                pause_s = every_s if not in_vain else max(every_s, min(MAX_PAUSE_S, every_s * 2.0 ** min(in_vain, 16)))
                await self._clock.sleep(pause_s * (0.5 + self._rng.random()))
        finally:
            await page.aclose()

    async def scrape(self, replica: Replica, page: Page, every_s: float) -> str:
        """Ask once. Returns how it ended."""
        asked_s = self._clock.monotonic()
        before, waiting = self._corrections.known(replica), replica.load.waiting
        try:
            figures = await page.read()
            outcome = MISSING if figures is None else FINE
        except (EngineError, OSError, ValueError):
            figures, outcome = None, FAILED
        self._outcomes[replica.pool, outcome] += 1
        if figures is not None:
            known = _most(before, self._corrections.known(replica))
            snapshot = _snapshot(figures, asked_s, every_s, known, max(waiting, replica.load.waiting))
            self._corrections.scraped(replica, snapshot)
        return outcome


class Page:
    """Where one replica's metrics stand. It has connections of its own: scraping takes none from requests."""

    def __init__(self, engine: EngineOptions, options: ScrapeOptions, replica: Replica) -> None:
        self._engine_options = engine
        self._name = replica.name
        self._url = _at_port(replica.url, options.port)
        self._paths = [options.path] if options.path is not None else list(PATHS)
        self._engine: HttpEngine | None = None

    async def read(self) -> Figures | None:
        """None: there is no page, or it says nothing of the load.

        Raises:
            EngineError: no answer in time, or more than `MAX_PAGE_BYTES`.
            OSError: the CA file cannot be read. ValueError: the URL has no host.
        """
        if self._engine is None:
            self._engine = await asyncio.to_thread(self._make)
        for path in list(self._paths):
            figures = await self._read(self._engine, path)
            if figures is not None:
                self._paths.sort(key=path.__ne__)  # from now on the first to be tried
                return figures
        return None

    async def aclose(self) -> None:
        if self._engine is not None:
            await self._engine.aclose()

    async def _read(self, engine: HttpEngine, path: str) -> Figures | None:
        status, body = await engine.get(path, LIMITS, MAX_PAGE_BYTES)
        if status in _MOVED and not path.endswith("/"):
            status, body = await engine.get(f"{path}/", LIMITS, MAX_PAGE_BYTES)
        if status != 200:
            return None
        if len(body) <= LOOP_PAGE_BYTES:
            return read_page(body)
        return await asyncio.to_thread(read_page, body)

    def _make(self) -> HttpEngine:
        """Blocks: it may read certificates."""
        options = self._engine_options
        headers = {key: value.get_secret_value() for key, value in options.headers.items()}
        return HttpEngine(with_key(Endpoint(self._name, self._url, headers, options.ca_file), options))


def _is_scraped(options: Options) -> bool:
    return options.scrape.every_s is not None and options.site != "cloud" and options.engine.kind in KINDS


def _at_port(url: str, port: int | None) -> str:
    """The URL of a server beside the one at `url`."""
    if port is None:
        return url
    parts = urlsplit(url)
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", "", "", ""))


def _most(before: Sums, after: Sums) -> Sums:
    """Requests came and went while the engine answered: all of them were known."""
    return Sums(
        max(before.in_flight, after.in_flight),
        max(before.prefill_tokens, after.prefill_tokens),
        max(before.context_tokens, after.context_tokens),
    )


def _snapshot(figures: Figures, at_s: float, every_s: float, known: Sums, known_waiting: float) -> EngineSnapshot:
    return EngineSnapshot(
        figures.running,
        figures.waiting,
        figures.kv_usage,
        figures.kv_tokens,
        figures.block_tokens,
        figures.mean_uncached_tokens,
        at_s,
        every_s,
        known,
        known_waiting,
    )
