"""A journal that keeps nothing: one worker, until it ends."""

from __future__ import annotations

import secrets

from cache.entry import Record
from cache.journal.seam import SECRET_BYTES, JournalStatus, Listener, tell


class MemoryJournal:
    """Implements `Journal`."""

    def __init__(self) -> None:
        self.secret = secrets.token_bytes(SECRET_BYTES)
        self._listener: Listener | None = None

    async def start(self, listener: Listener, within_s: float = 2.0) -> None:
        self._listener = listener

    def append(self, record: Record) -> None:
        assert self._listener is not None, "started"
        tell(self._listener, record)

    def status(self) -> JournalStatus:
        return JournalStatus("memory", "ok")

    async def settled(self) -> None:
        return

    async def aclose(self) -> None:
        self._listener = None
