"""What goes on beside each replica as long as it is there: its place in the index of prefixes, its KV events."""

from __future__ import annotations

import random
from collections.abc import Mapping

from engines.kv_events.sockets import Sockets
from gateway.clock import Clock
from gateway.config import Pool as Options
from gateway.kv_watch import KvWatch, SlotSink, finder_of
from gateway.replicas import Replica
from router.prefix import PrefixIndex


class Attendance:
    """One for a worker, used from its event loop alone.

    index:   what the replicas hold.
    options: of their pools, by name.
    """

    def __init__(self, index: PrefixIndex, options: Mapping[str, Options], clock: Clock, rng: random.Random) -> None:
        self._index = index
        self._options = options
        self._clock = clock
        self._rng = rng
        self._sockets = Sockets()
        self._watches: dict[Replica, KvWatch] = {}

    def joined(self, replica: Replica) -> None:
        """It may get requests soon."""
        slot = replica.slot = self._index.open(replica.load.kv_capacity_tokens)
        finder = finder_of(self._options[replica.pool].engine, replica.engine, replica.url)
        if finder is not None:
            sink = SlotSink(self._index, slot)
            watch = KvWatch(replica.name, sink, finder, self._sockets, clock=self._clock, rng=self._rng)
            self._watches[replica] = replica.watch = watch
            watch.start()

    async def left(self, replica: Replica) -> None:
        """It gets no more requests, and has none. Its engine is closed."""
        watch = self._watches.pop(replica, None)
        replica.watch = None
        if watch is not None:
            await watch.aclose()
        slot, replica.slot = replica.slot, None
        if slot is not None:
            self._index.close(slot)
        replica.load.speed.leave()
        await replica.engine.aclose()
