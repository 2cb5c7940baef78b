"""One replica may be several engines: data-parallel ranks behind one address, each with a cache of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from engines.kv_events.tracker import Sink


class Ranks:
    """Tells a sink what any of the ranks holds. It is never exact: which rank gets a request is not known before."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._holders: Counter[int] = Counter()

    def rank(self) -> Sink:
        """What one rank tells."""
        return _Rank(self)

    def add(self, keys: Sequence[int]) -> None:
        fresh = [key for key in keys if not self._holders[key]]
        self._holders.update(keys)
        if fresh:
            self._sink.stored(fresh)

    def take(self, keys: Sequence[int]) -> None:
        gone = [key for key in keys if self._holders[key] == 1]
        for key in keys:
            self._holders[key] -= 1
        for key in gone:
            del self._holders[key]
        if gone:
            self._sink.removed(gone)

    def uncertain(self) -> None:
        self._sink.certain(exact=False)


class _Rank:
    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._keys: set[int] = set()

    def stored(self, keys: Sequence[int]) -> None:
        fresh = [key for key in dict.fromkeys(keys) if key not in self._keys]
        self._keys.update(fresh)
        self._ranks.add(fresh)

    def removed(self, keys: Sequence[int]) -> None:
        gone = [key for key in dict.fromkeys(keys) if key in self._keys]
        self._keys.difference_update(gone)
        self._ranks.take(gone)

    def cleared(self) -> None:
        self.removed(list(self._keys))

    def certain(self, exact: bool) -> None:
        if not exact:
            self._ranks.uncertain()
