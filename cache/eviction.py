"""Which entry is worth least for its bytes.

GreedyDual-Size-Frequency (Cherkasova, 1998): an entry ranks by a clock plus its worth per byte; what is evicted sets
the clock to its own rank. So what was worth much long ago goes at last, and nothing has to be aged.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

SECOND_NANO_USD = 50_000.0
"""What a second that a client need not wait is worth: about what an engine costs in it that serves a dozen others."""
LEAST_NANO_USD = 1_000.0
"""Of an entry that saves neither time nor money that anyone knows of."""


def worth(saved_s: float, nano_usd: int, hits: int, confirmed: int, contradicted: int) -> float:
    """What it saved so far and may save again, 10^-9 $; less where its answers did not fit what was near."""
    saved = max(saved_s, 0.0) * SECOND_NANO_USD + max(nano_usd, 0) + LEAST_NANO_USD
    certainty = (confirmed + 1) / (confirmed + contradicted + 1)
    return saved * (1 + hits) * certainty


class Ranking:
    """Of numbers, lowest rank first. Ranks may rise without notice: they are asked for again before one is taken."""

    def __init__(self, rank: Callable[[int], float | None]) -> None:
        self._rank = rank
        """Of a number now; None: it is gone."""
        self._heap: list[tuple[float, int]] = []
        self.clock = 0.0
        """Rank of the last that was taken."""

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, number: int, rank: float) -> None:
        heapq.heappush(self._heap, (rank, number))

    def take(self) -> int | None:
        """The lowest, which is out then."""
        while self._heap:
            rank, number = self._heap[0]
            now = self._rank(number)
            if now is None:
                heapq.heappop(self._heap)
            elif now > rank:
                heapq.heapreplace(self._heap, (now, number))
            else:
                heapq.heappop(self._heap)
                self.clock = max(self.clock, rank)
                return number
        return None

    def compact(self, live: int) -> None:
        """Forget those that are gone, once they are the most."""
        if len(self._heap) > 2 * live + 64:
            ranked = ((self._rank(number), number) for _, number in self._heap)
            self._heap = [(rank, number) for rank, number in ranked if rank is not None]
            heapq.heapify(self._heap)
