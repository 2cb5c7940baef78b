"""Writes of one turn of the event loop, made together at its end."""

from __future__ import annotations

import asyncio


class Outbox:
    """Collects writes to any number of transports and makes them, in order, when the turn's reads are done.

    A write that wakes a sleeping peer costs several times one to a peer that is awake; written back to back, only the
    first of a turn pays for that. Measured: 65 to 50 us of CPU a request (docs/performance.md). A transport whose
    writes go through the outbox is closed through it too.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []

    def __repr__(self) -> str:
        return f"<Outbox waiting={len(self._waiting)}>"

    def send(self, transport: asyncio.Transport, data: bytes) -> None:
        waiting = self._waiting
        if not waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        waiting.append((transport, data))

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)

    def close(self, transport: asyncio.Transport) -> None:
        """Close after what waits is written."""
        self.flush()
        transport.close()

    def write_eof(self, transport: asyncio.Transport) -> None:
        """End the sending side after what waits is written."""
        self.flush()
        transport.write_eof()
