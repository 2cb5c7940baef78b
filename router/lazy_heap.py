"""A heap whose items can be moved and taken out."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

SLACK = 16
"""Rows out of date that a heap keeps however few items it has."""

T = TypeVar("T", bound=Hashable)
K = TypeVar("K", float, tuple[float, float])


class LazyHeap(Generic[T, K]):
    """Items by their key, the lowest first; of equal keys, whichever was put in first.

    What is moved or taken out leaves its row behind until that comes up, or until such rows outnumber the items. So
    every operation takes O(log n), averaged over those before it, and memory stays in proportion to the items.
    """

    __slots__ = ("_puts", "_rows", "_valid")

    def __init__(self) -> None:
        self._rows: list[tuple[K, int, T]] = []
        self._valid: dict[T, int] = {}
        """Which row of each item counts."""
        self._puts = 0

    def __len__(self) -> int:
        return len(self._valid)

    def __contains__(self, item: T) -> bool:
        return item in self._valid

    def __iter__(self) -> Iterator[T]:
        """In the order in which they were put in or moved."""
        return iter(self._valid)

    def put(self, item: T, key: K) -> None:
        """Put it in, or move it."""
        self._puts += 1
        self._valid.pop(item, None)
        self._valid[item] = self._puts
        heapq.heappush(self._rows, (key, self._puts, item))
        self._tidy()

    def remove(self, item: T) -> None:
        """Raises KeyError if it is not there."""
        del self._valid[item]
        self._tidy()

    def first(self) -> tuple[K, T] | None:
        """The lowest key and its item; None: there is none."""
        rows = self._rows
        while rows:
            key, put, item = rows[0]
            if self._valid.get(item) == put:
                return key, item
            heapq.heappop(rows)
        return None

    def last_put(self) -> T:
        """The item that was put in or moved last. Raises StopIteration if there is none."""
        return next(reversed(self._valid))

    def in_order(self) -> Iterator[T]:
        """From the lowest key upwards; each step costs O(log of the steps before it). Nothing may change meanwhile."""
        rows, valid = self._rows, self._valid
        front = [(rows[0], 0)] if self.first() is not None else []
        while front:
            row, at = heapq.heappop(front)
            if valid.get(row[2]) == row[1]:
                yield row[2]
            for below in (2 * at + 1, 2 * at + 2):
                if below < len(rows):
                    heapq.heappush(front, (rows[below], below))

    def _tidy(self) -> None:
        if len(self._rows) > 2 * len(self._valid) + SLACK:
            self._rows = [row for row in self._rows if self._valid.get(row[2]) == row[1]]
            heapq.heapify(self._rows)
