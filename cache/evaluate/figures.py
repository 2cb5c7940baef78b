"""What is counted of a stream, and what is told of it."""

from __future__ import annotations

import msgspec

from cache.evaluate.interval import clopper_pearson

QUARTERS = 4


class Figures(msgspec.Struct, frozen=True):
    """Shares from 0 to 1. A hit is an answer served to a question that is worded differently; it is wrong if the label
    of the answer is another than the question's."""

    requests: int
    hits: int
    wrong: int
    hit_rate: float
    wrong_per_hit: float
    """0 without hits."""
    wrong_per_request: float
    interval: tuple[float, float]
    """Of `wrong_per_hit`, after Clopper and Pearson, at 95 %."""
    hits_by_quarter: tuple[float, ...]
    """Hit rate in each quarter of the stream."""


class Tally:
    """Counts one pass over a stream."""

    def __init__(self, requests: int) -> None:
        self._requests = requests
        self._wrong = 0
        self._asked = 0
        self._hits = [0] * QUARTERS

    def miss(self) -> None:
        self._asked += 1

    def hit(self, *, wrong: bool) -> None:
        self._hits[min(QUARTERS * self._asked // self._requests, QUARTERS - 1)] += 1
        self._asked += 1
        self._wrong += wrong

    def figures(self) -> Figures:
        return counted(self._requests, tuple(self._hits), self._wrong)


def counted(requests: int, hits_by_quarter: tuple[int, ...], wrong: int) -> Figures:
    hits = sum(hits_by_quarter)
    edges = [-(-requests * i // QUARTERS) for i in range(QUARTERS + 1)]
    return Figures(
        requests,
        hits,
        wrong,
        hits / max(requests, 1),
        wrong / max(hits, 1),
        wrong / max(requests, 1),
        clopper_pearson(wrong, hits),
        tuple(
            count / max(end - begin, 1)
            for count, begin, end in zip(hits_by_quarter, edges[:-1], edges[1:], strict=True)
        ),
    )


def pooled(runs: list[Figures]) -> Figures:
    """Over all runs of one policy: sums, and the quarters' means."""
    requests, hits = sum(run.requests for run in runs), sum(run.hits for run in runs)
    wrong = sum(run.wrong for run in runs)
    quarters = tuple(sum(share) / len(runs) for share in zip(*(run.hits_by_quarter for run in runs), strict=True))
    return msgspec.structs.replace(
        counted(requests, (hits, 0, 0, 0), wrong),
        hits_by_quarter=quarters,
    )
