"""An answer's way to the connection: as it is, or cut into pieces that leave one per turn of the event loop."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable

from engines.fake.connection import Connection
from engines.fake.options import Split

_AHEAD = 256
"""Pieces that may wait before `blocked` says to stop making more."""


class Output:
    def __init__(self, connection: Connection, split: Split, cuts: list[int] | None, source: random.Random) -> None:
        self._connection = connection
        self._split = split
        self._cuts = sorted(cuts) if cuts is not None else None
        self._random = source
        self._offset = 0
        self._pieces: deque[bytes] = deque()
        self._end: Callable[[], None] | None = None
        self._pumping = False

    @property
    def blocked(self) -> bool:
        """The client reads too slowly; the connection's `on_writable` tells when to go on."""
        return self._connection.paused or len(self._pieces) > _AHEAD

    def write(self, data: bytes) -> None:
        """Raw bytes, cut only if it is the wire that is to be cut."""
        if self._split is Split.WIRE:
            self._queue(self._randomly(data))
        elif self._pieces:
            self._queue([data])
        else:
            self._connection.write(data)

    def payload(self, events: list[bytes], frame: Callable[[bytes], bytes]) -> None:
        """Bytes of the event stream; each piece gets a frame of its own."""
        if self._cuts is not None or self._split in (Split.RANDOM, Split.BYTE):
            self._queue([frame(piece) for piece in self._cut(b"".join(events))])
        elif events:
            self.write(frame(events[0]) if len(events) == 1 else b"".join(map(frame, events)))

    def then(self, end: Callable[[], None]) -> None:
        """Call `end` when everything is written."""
        if self._pieces:
            self._end = end
        else:
            end()

    def drop(self) -> None:
        self._pieces.clear()
        self._end = None

    def _cut(self, data: bytes) -> list[bytes]:
        if self._cuts is not None:
            start, self._offset = self._offset, self._offset + len(data)
            inner = [cut - start for cut in self._cuts if start < cut < self._offset]
            ends = [*inner, len(data)]
            return [data[a:b] for a, b in zip([0, *inner], ends, strict=True) if b > a]
        if self._split is Split.BYTE:
            return [data[i : i + 1] for i in range(len(data))]
        return self._randomly(data)

    def _randomly(self, data: bytes) -> list[bytes]:
        pieces, at = [], 0
        while at < len(data):
            size = self._random.randint(1, 64)
            pieces.append(data[at : at + size])
            at += size
        return pieces

    def _queue(self, pieces: list[bytes]) -> None:
        self._pieces.extend(pieces)
        if self._pieces and not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        if not self._pieces:
            self._pumping = False  # dropped meanwhile
            return
        self._connection.write(self._pieces.popleft())
        if self._pieces:
            asyncio.get_running_loop().call_soon(self._pump)
            return
        self._pumping = False
        end, self._end = self._end, None
        if end is not None:
            end()
        elif self._connection.on_writable is not None:
            self._connection.on_writable()
