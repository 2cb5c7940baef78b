"""What other caches would have served: those with one threshold for all questions, and vCache."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from cache.evaluate.data import Stream, order_of
from cache.evaluate.figures import Figures, Tally
from cache.evaluate.vcache import Vote
from cache.index import Floats

THRESHOLDS = (0.75, 0.80, 0.85, 0.90, 0.95)
_ROWS = 256
"""Computed at once: a block of them against 100,000 questions takes 100 MB."""


class Cache(Protocol):
    """Decides for a question by its nearest kept one alone."""

    def serves(self, kept: int, cosine: float) -> bool: ...

    def missed(self, kept: int | None, cosine: float, asked: int, *, equal: bool) -> bool:
        """Its answer was fetched. Returns: whether it is kept."""
        ...


class Static:
    """Serves the nearest answer at one cosine or more, and keeps every other."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def serves(self, kept: int, cosine: float) -> bool:
        return cosine >= self._threshold

    def missed(self, kept: int | None, cosine: float, asked: int, *, equal: bool) -> bool:
        return True


class VCache:
    """Schroeder et al., "vCache: Verified Semantic Prompt Caching" (arXiv 2502.03771), by its formulas: each kept
    answer has its own estimate of how likely it fits at a cosine, and is served by chance, such that the share of
    wrong answers among all requests stays below `delta`. An answer is kept unless the nearest kept one was equal."""

    def __init__(self, delta: float, seed: int) -> None:
        self._delta = delta
        self._chance = random.Random(f"vcache {seed}")  # noqa: S311 - has to repeat
        self._votes: dict[int, Vote] = {}

    def serves(self, kept: int, cosine: float) -> bool:
        return self._chance.random() > self._votes[kept].explore(cosine, self._delta)

    def missed(self, kept: int | None, cosine: float, asked: int, *, equal: bool) -> bool:
        if kept is not None:
            self._votes[kept].add(cosine, equal=equal)
        if equal:
            return False
        self._votes[asked] = Vote()
        return True


def play(
    stream: Stream,
    vectors: Floats,
    caches: Sequence[Cache],
    seed: int,
    step: Callable[[], object] = lambda: None,
) -> list[Figures]:
    """One pass over the stream for all of them, in the order of the seed; each keeps its own answers.

    step: called after each question.
    """
    order = order_of(seed, len(stream.texts))
    labels = [stream.labels[at] for at in order]
    passes = [_Pass(cache, labels) for cache in caches]
    for asked, row in enumerate(_rows(vectors, order)):
        for one in passes:
            one.ask(asked, row)
        step()
    return [one.tally.figures() for one in passes]


def _rows(vectors: Floats, order: Sequence[int]) -> Iterator[Floats]:
    """For each question in this order, its cosines to those before it, in this order."""
    ordered = vectors[list(order)]
    for begin in range(0, len(ordered), _ROWS):
        block = ordered[begin : begin + _ROWS] @ ordered[: begin + _ROWS].T
        for number, row in enumerate(block):
            yield row[: begin + number]


class _Pass:
    def __init__(self, cache: Cache, labels: Sequence[str]) -> None:
        self.tally = Tally(len(labels))
        self._cache = cache
        self._labels = labels
        self._kept = np.zeros(len(labels), dtype=np.int64)
        self._count = 0

    def ask(self, asked: int, row: Floats) -> None:
        kept, cosine = self._nearest(row)
        equal = kept is not None and self._labels[kept] == self._labels[asked]
        if kept is not None and self._cache.serves(kept, cosine):
            self.tally.hit(wrong=not equal)
            return
        self.tally.miss()
        if self._cache.missed(kept, cosine, asked, equal=equal):
            self._kept[self._count] = asked
            self._count += 1

    def _nearest(self, row: Floats) -> tuple[int | None, float]:
        if not self._count:
            return None, 0.0
        kept = self._kept[: self._count]
        cosines = row[kept]
        best = int(cosines.argmax())
        return int(kept[best]), float(cosines[best])
