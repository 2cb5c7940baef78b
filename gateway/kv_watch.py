"""Keeps hearing what one replica tells of its KV cache, as long as the replica is there."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Protocol

from engines.base import EngineError
from engines.http import HEALTH_LIMITS, MAX_HEALTH_BYTES, HttpEngine
from engines.kv_events.ranks import Ranks
from engines.kv_events.sockets import MissingLibrary, Sockets
from engines.kv_events.sources import SOURCES_PATH, Source, configured, sources_in
from engines.kv_events.subscriber import Subscriber
from engines.kv_events.tracker import Sink, Tracker
from gateway.backoff import Backoff
from gateway.clock import Clock
from gateway.config import EngineOptions
from router.prefix import Certainty, PrefixIndex, Slot

logger = logging.getLogger(__name__)

ASK_AGAIN_S = 300.0
"""An engine that publishes nothing may be another one by then."""
LONGEST_PAUSE_S = 5.0
"""Between attempts to reach an engine that is away."""
GRACE_S = 3.0
"""How long a lost connection may take to come back before what the engine holds is taken to be uncertain."""


class Finder(Protocol):
    """Says where a replica publishes."""

    async def find(self) -> Sequence[Source] | None:
        """The publishers, one for each data-parallel rank; empty: it has none. None: it does not answer now."""
        ...


class Configured:
    """Publishers that the configuration names."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    async def find(self) -> Sequence[Source]:
        return self._sources


class Asked:
    """Publishers that the engine names itself."""

    def __init__(self, engine: HttpEngine, url: str) -> None:
        self._engine = engine
        self._url = url

    async def find(self) -> Sequence[Source] | None:
        try:
            status, body = await self._engine.get(SOURCES_PATH, HEALTH_LIMITS, MAX_HEALTH_BYTES)
        except EngineError:
            return None
        if status >= 500:
            return None
        try:
            return sources_in(body, self._url) if status == 200 else []
        except ValueError as error:
            logger.debug("%s: %s", self._engine.name, error)
            return []


def finder_of(options: EngineOptions, engine: object, url: str) -> Finder | None:
    """Where to hear the replica at `url`; None: it is not to be heard."""
    events = options.kv_events
    if events.mode == "off":
        return None
    if events.endpoint is not None:
        replay = events.replay_endpoint or ""
        return Configured(configured(events.endpoint, replay, events.topic, events.ranks, url))
    if options.kind == "vllm" and isinstance(engine, HttpEngine):
        return Asked(engine, url)
    return None


class SlotSink:
    """Tells the index what a replica holds. Implements `Sink`."""

    def __init__(self, index: PrefixIndex, slot: Slot) -> None:
        self._index = index
        self._slot = slot

    def stored(self, keys: Sequence[int]) -> None:
        self._index.stored(self._slot, keys)

    def removed(self, keys: Sequence[int]) -> None:
        self._index.removed(self._slot, keys)

    def cleared(self) -> None:
        self._index.clear(self._slot)

    def certain(self, exact: bool) -> None:
        self._index.certain(self._slot, Certainty.EXACT if exact else Certainty.PREDICTED)


class KvWatch:
    """One for each replica, used from one event loop.

    grace_s: see `GRACE_S`.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        finder: Finder,
        sockets: Sockets,
        *,
        clock: Clock,
        rng: random.Random,
        grace_s: float = GRACE_S,
    ) -> None:
        self.name = name
        self._sink = sink
        self._finder = finder
        self._sockets = sockets
        self._clock = clock
        self._backoff = Backoff(rng, first_s=0.1, max_s=LONGEST_PAUSE_S)
        self._grace_s = grace_s
        self._subscribers: dict[int, Subscriber] = {}
        self._task: asyncio.Task[None] | None = None
        self._uncertain: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<KvWatch {self.name} {list(self._subscribers.values())}>"

    @property
    def exact(self) -> bool:
        """Whether the sink knows all that the replica holds."""
        return len(self._subscribers) == 1 and all(one.tracker.exact for one in self._subscribers.values())

    @property
    def block_tokens(self) -> int:
        """Length of the replica's blocks in tokens; 0: it has told of none."""
        return next((one.tracker.block_tokens for one in self._subscribers.values()), 0)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"KV events of {self.name}")

    async def aclose(self) -> None:
        self._reassure()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            sources: Sequence[Source] | None = None
            try:
                sources = await self._finder.find()
                if sources:
                    await self._follow(sources)
            except MissingLibrary as error:
                logger.info("%s publishes its KV events, but nobody can read them. %s", self.name, error)
                return
            except ValueError as error:
                logger.warning("%s: KV events: %s", self.name, error)
                return
            except Exception:
                logger.exception("%s: KV events", self.name)
                self._forget()
            await self._clock.sleep(ASK_AGAIN_S if sources == [] else self._backoff.pause_s())

    async def _follow(self, sources: Sequence[Source]) -> None:
        """Hear all of them until one connection is lost."""
        self._assign(sources)
        tasks = [asyncio.get_running_loop().create_task(self._hear(one)) for one in self._subscribers.values()]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._worry()
        for task in done:
            task.result()

    async def _hear(self, subscriber: Subscriber) -> None:
        await subscriber.run(self._connected)

    def _connected(self) -> None:
        self._backoff.reset()
        self._reassure()

    def _assign(self, sources: Sequence[Source]) -> None:
        """A rank that was heard before goes on where it was, wherever it publishes now."""
        if {one.rank for one in sources} != set(self._subscribers):
            if self._subscribers:
                self._forget()
            ranks = Ranks(self._sink) if len(sources) > 1 else None
            self._subscribers = {
                one.rank: Subscriber(one, Tracker(ranks.rank() if ranks else self._sink), self._sockets)
                for one in sources
            }
        for one in sources:
            self._subscribers[one.rank].source = one

    def _forget(self) -> None:
        """Begin anew, with nothing known."""
        self._subscribers = {}
        self._sink.cleared()
        self._sink.certain(exact=False)

    def _worry(self) -> None:
        """A connection is lost. Most come back at once, and nothing was missed."""
        if self._uncertain is None:
            self._uncertain = asyncio.get_running_loop().call_later(self._grace_s, self._suspend)

    def _reassure(self) -> None:
        if self._uncertain is not None:
            self._uncertain.cancel()
            self._uncertain = None

    def _suspend(self) -> None:
        self._uncertain = None
        for subscriber in self._subscribers.values():
            subscriber.tracker.suspend()
