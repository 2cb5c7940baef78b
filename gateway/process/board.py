"""What the workers of a generation tell each other, in memory that all of them see.

How many connections each has: who takes a connection from a socket that several processes wait on is a race, and the
same process may win it a hundred times in a row. So a worker that is well ahead of another holds back.

And a note from each, of which the board knows only where it ends and whether it is whole.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable

from xxhash import xxh3_64_intdigest

_ITEM_BYTES = 8
_NOTE_HEAD = struct.Struct("=QQ")
"""Length and checksum: a note that is read while it is written is not taken."""
MAX_NOTE_BYTES = 16 * 1024 - _NOTE_HEAD.size
_NOTE_BYTES = _NOTE_HEAD.size + MAX_NOTE_BYTES
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
        self._memory = mmap.mmap(fd, places * (_ITEM_BYTES + _NOTE_BYTES))
        self._counts = memoryview(self._memory)[: places * _ITEM_BYTES].cast("q")

    @classmethod
    def create(cls, places: int) -> Board:
        fd = os.memfd_create("headrace-board")
        os.ftruncate(fd, places * (_ITEM_BYTES + _NOTE_BYTES))
        board = cls(fd, places)
        for place in range(places):
            board.put(place, ABSENT)
        return board

    def __repr__(self) -> str:
        return f"<Board {list(self._counts)}>"

    def put(self, place: int, count: int) -> None:
        self._counts[place] = count
        if count == ABSENT:
            self.put_note(place, b"")  # whoever comes next at this place has not said it

    def put_note(self, place: int, note: bytes) -> None:
        """Raises ValueError: it is longer than `MAX_NOTE_BYTES`."""
        if len(note) > MAX_NOTE_BYTES:
            raise ValueError(f"a note of {len(note)} bytes does not fit; at most {MAX_NOTE_BYTES} do")
        head = _NOTE_HEAD.pack(len(note), xxh3_64_intdigest(note))
        start = self._note_start(place)
        self._memory[start : start + len(head) + len(note)] = head + note

    def others_notes(self, place: int) -> list[bytes]:
        """Those of the workers that accept, as far as they are whole."""
        notes = []
        for other, count in enumerate(self._counts):
            if other != place and count != ABSENT:
                start = self._note_start(other)
                length, checksum = _NOTE_HEAD.unpack_from(self._memory, start)
                start += _NOTE_HEAD.size
                note = self._memory[start : start + min(length, MAX_NOTE_BYTES)]
                if note and xxh3_64_intdigest(note) == checksum:
                    notes.append(note)
        return notes

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

    def _note_start(self, place: int) -> int:
        return self.places * _ITEM_BYTES + place * _NOTE_BYTES

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

    def tell(self, note: bytes) -> None:
        self._board.put_note(self._place, note)

    def others_told(self) -> list[bytes]:
        return self._board.others_notes(self._place)

    def leave(self) -> None:
        self._board.put(self._place, ABSENT)
