"""What routing knows beyond its own books: prefixes, prompts, the engines' own metrics, the other gateways."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping

from gateway.attendance import Attendance
from gateway.clock import Clock
from gateway.company import Company
from gateway.config import Config
from gateway.config import Variant as VariantOptions
from gateway.pools import Pool
from gateway.process.board import Turn
from gateway.prompts import Lengths, PromptReader, PromptThread, open_reader
from gateway.replicas import Replica
from gateway.telemetry import Telemetry, series
from router.jitter import Jittered
from router.prefix import PrefixIndex
from router.types import Policy


class Knowledge:
    """One for a worker. Nothing here is waited for by a request, but the reading of its own prompt.

    index:      what the replicas hold in their KV caches.
    attendance: is to be told of replicas that come and go.
    """

    def __init__(self, config: Config, clock: Clock, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._pools: dict[str, Pool] = {}
        self._thread = PromptThread()
        self._lengths: dict[str, Lengths] = {}
        self._company = Company(config, self._pools, self._replicas, clock, rng)
        self.index = PrefixIndex(config.routing.prefix_index_bytes)
        self.attendance = Attendance(self.index, config.pools, clock, rng)

    def workers(self) -> int:
        """Of all gateways, as far as is known."""
        return self._company.workers()

    def see(self, pools: Mapping[str, Pool], telemetry: Telemetry) -> None:
        """These are the pools."""
        self._pools.update(pools)
        self._company.watch(telemetry)
        telemetry.watch(series.PREFIX_REPLICAS.name, self._certainties)
        telemetry.watch(series.PREFIX_BYTES.name, lambda: [((), float(self.index.size_bytes))])

    def reader(self, deployment: str, name: str, options: VariantOptions) -> PromptReader:
        """What reads the prompts of a variant. Answers of one deployment are of like length."""
        lengths = self._lengths.setdefault(deployment, Lengths())
        return open_reader(self._thread, lengths, f"{deployment}/{name}", options, self._config.pools)

    def jittered(self, policy: Policy, rng: random.Random | None = None) -> Policy:
        """`policy`, less sure of itself while there are peers that cannot be seen (R06).

        rng: in place of the worker's own.
        """
        return Jittered(policy, rng or self._rng, self._company.is_blind)

    async def start(self, turn: Turn | None) -> None:
        """turn: the other workers of this gateway are met there."""
        await self._company.start(turn)

    async def aclose(self) -> None:
        self._thread.close()
        await self._company.aclose()

    def _replicas(self) -> Iterable[Replica]:
        return [replica for pool in self._pools.values() for replica in pool.everyone]

    def _certainties(self) -> Iterable[tuple[tuple[str, ...], float]]:
        for name, pool in self._pools.items():
            known = Counter(str(r.slot.certainty) for r in pool.everyone if r.slot is not None)
            for certainty, count in known.items():
                yield (name, certainty), float(count)
