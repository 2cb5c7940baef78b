"""All that a gateway learns of others' work at its replicas: the engines' own metrics, and what its peers tell."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping

from gateway.clock import Clock
from gateway.config import Config
from gateway.config import Redis as RedisOptions
from gateway.corrections import Corrections
from gateway.peers import BoardPlace, Peers, Place
from gateway.pools import Pool
from gateway.process.board import Turn
from gateway.replicas import Replica
from gateway.scrapes import Scraper
from gateway.telemetry import Telemetry, series


class Company:
    """One for each worker. It corrects the replicas' loads from `start` to `aclose`; no request waits for it.

    replicas: all whose engines are open, those that drain among them.

    Raises:
        OSError: what this machine is called cannot be read.
    """

    def __init__(
        self,
        config: Config,
        pools: Mapping[str, Pool],
        replicas: Callable[[], Iterable[Replica]],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._redis = config.redis
        self._clock = clock
        self._rng = rng
        self.corrections = Corrections(replicas)
        self.scraper = Scraper(pools, config.pools, self.corrections, clock, rng)
        self.peers: Peers | None = None

    def is_blind(self) -> bool:
        """Whether there are peers, or may be, that cannot be seen at this moment; see `router.jitter`."""
        return self.peers is not None and self.peers.blind

    def workers(self) -> int:
        """Of all gateways, as far as is known: this one and its peers. While Redis is away it is as many as before:
        else each would take a larger share of the limits."""
        return 1 + self.peers.last_seen if self.peers is not None else 1

    def watch(self, telemetry: Telemetry) -> None:
        """Show in the metrics how it goes."""
        telemetry.watch(series.SCRAPES.name, self.scraper.outcomes)
        telemetry.watch(series.SCRAPE_AGE.name, self.scraper.ages)
        telemetry.watch(series.PEERS.name, lambda: self.peers.counts() if self.peers else ())
        telemetry.watch(series.PEERS_DEGRADED.name, lambda: self.peers.degraded() if self.peers else ())

    async def start(self, turn: Turn | None = None) -> None:
        """turn: the board that this worker shares with others, if there are others.

        Raises:
            ValueError: `redis.url` has an option that the client does not know.
            OSError: `redis.ca_file` cannot be read.
        """
        places: list[Place] = [] if turn is None else [BoardPlace(turn)]
        if self._redis is not None and self._redis.peers:
            places.append(await asyncio.to_thread(_redis_place, self._redis))
        if places:
            self.peers = Peers(places, self.corrections, self._clock, self._rng)
            self.peers.start()
        self.scraper.start()

    async def aclose(self) -> None:
        """Idempotent. Takes a moment at most, even if nobody answers."""
        await self.scraper.aclose()
        if self.peers is not None:
            await self.peers.aclose()


def _redis_place(options: RedisOptions) -> Place:
    from gateway.redis_place import RedisPlace  # of use only where Redis is configured

    return RedisPlace(options)
