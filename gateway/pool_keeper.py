"""Keeps a pool's replicas what its source says: newcomers are brought up, those that are gone drain (see `Pool`)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence

from gateway.attendance import Attendance
from gateway.backoff import Backoff
from gateway.clock import Clock
from gateway.config import Pool as Options
from gateway.discovery import Discovery, DiscoveryError
from gateway.pools import Pool
from gateway.probes import Prober
from gateway.replicas import Ramp, Replica
from gateway.waking import Waker
from gateway.warm_up import WarmUpCall

logger = logging.getLogger(__name__)

MakeReplica = Callable[[str, str, str], Replica]
"""Pool name, replica name, URL. May block: it may read certificates."""


class _Newcomer:
    """A URL whose replica has no traffic yet. `tried`: set once it is admitted, or did not warm up at first."""

    def __init__(self, name: str, replica: Replica | None = None) -> None:
        self.name = name
        self.replica = replica
        self.tried = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class PoolKeeper:
    """One for each pool of a worker, used from its event loop alone.

    warm_up:   what newcomers are to answer; None: they are taken as they are.
    discovery: where the URLs come from; None: the replicas are those that the pool has.
    attendance: is told of each replica that comes and goes.
    """

    def __init__(
        self,
        pool: Pool,
        options: Options,
        make: MakeReplica,
        *,
        clock: Clock,
        rng: random.Random,
        discovery: Discovery | None = None,
        warm_up: WarmUpCall | None = None,
        attendance: Attendance | None = None,
    ) -> None:
        self.pool = pool
        self.discovery = discovery
        self.error = ""
        """Why the source cannot be asked; empty: it can."""
        self._options = options
        self._make = make
        self._clock = clock
        self._rng = rng
        self._warm_up = warm_up
        self._attendance = attendance
        self._newcomers: dict[str, _Newcomer] = {}
        self._wanted: dict[str, None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard = asyncio.Event()
        self._prober = Prober(pool, options.probe, clock, rng)
        self._backoff = Backoff(rng)
        if options.scale_to_zero is not None:
            pool.waker = Waker(pool, options.scale_to_zero, clock, self._is_warm)

    def __repr__(self) -> str:
        return f"<PoolKeeper {self.pool!r} newcomers={list(self._newcomers)} error={self.error!r}>"

    def start(self) -> None:
        for replica in self.pool.replicas:
            self._joined(replica)
        if self._warm_up is not None:
            for replica in self.pool.replicas:
                self.pool.warm(replica)
                self._bring_up(replica.url, _Newcomer(replica.name, replica))
        if self._options.probe.every_s is not None:
            self._own(self._prober.run())
        if self.discovery is not None:
            self._own(self._discover(self.discovery))
        else:
            self._heard.set()

    async def settled(self) -> None:
        """Returns when the source has said something, and everybody that it named serves, or has failed to once."""
        await self._heard.wait()
        for newcomer in list(self._newcomers.values()):
            await newcomer.tried.wait()

    async def aclose(self) -> None:
        """End all that goes on here, and close the engines."""
        if self.pool.waker is not None:
            await self.pool.waker.aclose()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for replica in self.pool.everyone:
            await self._left(replica)

    def assign(self, urls: Sequence[str]) -> None:
        """These are the replicas from now on. One that was there before stays the same object."""
        wanted = self._wanted = dict.fromkeys(urls)
        draining = {replica.url: replica for replica in self.pool.draining}
        for url in [url for url in self._newcomers if url not in wanted]:
            self._dismiss(url)
        present = {replica.url for replica in self.pool.replicas} | self._newcomers.keys()
        for url in wanted:
            if url in draining:
                self.pool.take_back(draining[url])
            elif url not in present:
                taken = [newcomer.name for newcomer in self._newcomers.values()]
                self._bring_up(url, _Newcomer(self.pool.free_name(taken)))
        self._part()

    # The source

    async def _discover(self, discovery: Discovery) -> None:
        while True:
            try:
                await discovery.watch(self._found)
            except DiscoveryError as error:
                self._failed(discovery, str(error))
            except Exception as error:
                logger.exception("%s failed", discovery.source)
                self.error = f"{type(error).__name__}: {error}"
                self._heard.set()
            await self._clock.sleep(self._backoff.pause_s())

    def _found(self, urls: Sequence[str]) -> None:
        if self.error and self.discovery is not None:
            logger.info("pool %s: %s can be asked again", self.pool.name, self.discovery.source)
        self.error = ""
        self._backoff.reset()
        self.assign(urls)
        self._heard.set()

    def _failed(self, discovery: Discovery, error: str) -> None:
        """Said once; what was known stays."""
        if error != self.error:
            known = len(self.pool.replicas) + len(self._newcomers)
            logger.warning(
                "pool %s: %s: %s; the %d known replicas stay", self.pool.name, discovery.source, error, known
            )
        self.error = error
        self._heard.set()

    # Those who come

    def _bring_up(self, url: str, newcomer: _Newcomer) -> None:
        self._newcomers[url] = newcomer
        newcomer.task = self._own(self._until_up(url, newcomer))

    async def _until_up(self, url: str, newcomer: _Newcomer) -> None:
        backoff = Backoff(self._rng)
        try:
            while not await self._is_up(url, newcomer):
                newcomer.tried.set()
                await self._clock.sleep(backoff.pause_s())
            assert newcomer.replica is not None
            self.pool.admit(newcomer.replica, self._ramp())
            self._part()
            logger.debug("pool %s: %s at %s gets traffic", self.pool.name, newcomer.name, url)
        finally:
            newcomer.tried.set()
            if self._newcomers.get(url) is newcomer:
                del self._newcomers[url]

    async def _is_up(self, url: str, newcomer: _Newcomer) -> bool:
        if newcomer.replica is None:
            try:
                made = await asyncio.to_thread(self._make, self.pool.name, newcomer.name, url)
            except (OSError, ValueError, ImportError) as error:
                logger.warning("pool %s: no engine can be made for %s: %s", self.pool.name, url, error)
                return False
            newcomer.replica = made
            self.pool.warm(made)
            self._joined(made)
        return await self._is_warm(newcomer.replica)

    async def _is_warm(self, replica: Replica) -> bool:
        """Whether it answers the warm-up request, if there is one."""
        if self._warm_up is None:
            return True
        problem = await self._warm_up.send(replica.engine)
        if problem and problem != replica.last_error:
            logger.warning("%s: %s; it gets no traffic yet", replica.name, problem)
        replica.last_error = problem
        return not problem

    def _ramp(self) -> Ramp | None:
        length_s = self._options.slow_start_s
        return Ramp(self._clock.monotonic(), length_s) if length_s else None

    # Those who go

    def _part(self) -> None:
        """Drain those who are named no longer, as soon as somebody who is has traffic.

        So a pool that is replaced as a whole always has somebody to ask.
        """
        if self._wanted is None:
            return
        leaving = [replica for replica in self.pool.replicas if replica.url not in self._wanted]
        if self._wanted and len(leaving) == len(self.pool.replicas):
            return
        for replica in leaving:
            self._drain(replica)

    def _dismiss(self, url: str) -> None:
        """It was named no longer before it had traffic."""
        newcomer = self._newcomers.pop(url)
        if newcomer.task is not None:
            newcomer.task.cancel()
        if newcomer.replica is not None:
            self._drain(newcomer.replica)

    def _drain(self, replica: Replica) -> None:
        if self.pool.drain(replica):
            replica.on_idle = lambda: self._leave(replica)
        else:
            self._own(self._left(replica))

    def _leave(self, replica: Replica) -> None:
        self.pool.drained(replica)
        self._own(self._left(replica))

    def _joined(self, replica: Replica) -> None:
        if self._attendance is not None:
            self._attendance.joined(replica)
            self.pool.tells = self.pool.tells or replica.watch is not None

    async def _left(self, replica: Replica) -> None:
        if self._attendance is None:
            await replica.engine.aclose()
        else:
            await self._attendance.left(replica)

    def _own(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
