"""How many connections each worker of a generation has, in memory that all of them see.

Who takes a connection from a socket that several processes wait on is a race, and the same process may win it a hundred
times in a row. So a worker that is well ahead of another holds back.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable

_ITEM_BYTES = 8
ABSENT = -1
"""The worker does not accept: it starts, drains or is gone."""
SLACK = 2
SLACK_SHARE = 8
"""Holding back begins at a lead of 2, or an eighth of what the other has."""


class Board:
    """Opened anew from `fd` in each process. A worker writes its own place alone."""

    def __init__(self, fd: int, places: int) -> None:
        self.fd = fd
        self.places = places
        self._memory = mmap.mmap(fd, places * _ITEM_BYTES)
        self._counts = memoryview(self._memory).cast("q")

    @classmethod
    def create(cls, places: int) -> Board:
        fd = os.memfd_create("headrace-board")
        os.ftruncate(fd, places * _ITEM_BYTES)
        board = cls(fd, places)
        for place in range(places):
            board.put(place, ABSENT)
        return board

    def __repr__(self) -> str:
        return f"<Board {list(self._counts)}>"

    def put(self, place: int, count: int) -> None:
        self._counts[place] = count

    def is_ahead(self, place: int) -> bool:
        """Whether this worker has so many more connections than some other that the other should take the next."""
        least = min(self._others(place), default=None)
        return least is not None and self._counts[place] >= least + max(SLACK, least // SLACK_SHARE)

    def close(self) -> None:
        """Idempotent."""
        if not self._memory.closed:
            self._counts.release()
            self._memory.close()
            os.close(self.fd)

    def _others(self, place: int) -> Iterable[int]:
        return (count for other, count in enumerate(self._counts) if other != place and count != ABSENT)


class Turn:
    """One worker's view of the board. `count`: its open connections."""

    def __init__(self, board: Board, place: int) -> None:
        self._board = board
        self._place = place

    def is_ahead(self, count: int) -> bool:
        self._board.put(self._place, count)
        return self._board.is_ahead(self._place)

    def leave(self) -> None:
        self._board.put(self._place, ABSENT)
