"""A worker's own records on their way to a store, and what journals that have one share."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from cache.entry import Record
from cache.journal.seam import (
    AT_ONCE,
    SECRET_BYTES,
    JournalStatus,
    Listener,
    WallTime,
    encoded,
    tell,
    tell_dropped,
)

WAITING_BYTES = 16 * 1024 * 1024
"""Of records that wait for a store that is away; over it, the oldest are dropped."""
CLOSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Waiting:
    number: int
    """Of this worker's records, from 1."""
    record: Record
    body: bytes


class Outbox:
    """A worker's own records until they are confirmed, in order. Only the loop changes it; `first` may be called from
    another thread as well."""

    def __init__(self, max_bytes: int = WAITING_BYTES) -> None:
        self._max_bytes = max_bytes
        self._waiting: deque[Waiting] = deque()
        self._size_bytes = 0
        self._settling: list[tuple[int, asyncio.Future[None]]] = []
        self.last = 0
        """Number of the newest."""
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, record: Record) -> list[Record]:
        """Returns those that were dropped for it."""
        body = encoded(record)
        self.last += 1
        self._waiting.append(Waiting(self.last, record, body))
        self._size_bytes += len(body)
        out = []
        while self._size_bytes > self._max_bytes:
            oldest = self._waiting.popleft()
            self._size_bytes -= len(oldest.body)
            out.append(oldest.record)
        self.dropped += len(out)
        return out

    def first(self, count: int) -> list[Waiting]:
        return list(islice(self._waiting, count))  # in one step of the interpreter

    def confirm(self, number: int) -> None:
        """All up to this one."""
        while self._waiting and self._waiting[0].number <= number:
            self._size_bytes -= len(self._waiting.popleft().body)
        for wanted, future in self._settling:
            if wanted <= number and not future.done():
                future.set_result(None)
        self._settling = [each for each in self._settling if not each[1].done()]

    async def settled(self) -> None:
        """Returns once all that is in it now is confirmed."""
        if self._waiting:
            future = asyncio.get_running_loop().create_future()
            self._settling.append((self.last, future))
            await future


class StoredJournal:
    """The part of a `Journal` that does not depend on its store.

    name: of the kind of store. hurry: has what waits in the outbox be sent.
    """

    def __init__(self, name: str, now: WallTime, hurry: Callable[[], None]) -> None:
        self._kind = name
        self._now = now
        self._hurry = hurry
        self._outbox = Outbox()
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._listener: Listener | None = None
        self._caught_up = asyncio.Event()
        self._alone = False
        """The store is not for this version: nothing waits for it."""
        self._reason = ""
        """Why it is away."""
        self._away_since = 0.0
        self._skipped = 0

    @property
    def secret(self) -> bytes:
        return self._secret

    def append(self, record: Record) -> None:
        assert self._listener is not None, "started"
        if self._alone or isinstance(record, AT_ONCE):
            record = tell(self._listener, record)
        if not self._alone:
            tell_dropped(self._listener, self._outbox.put(record))
            self._hurry()

    def status(self) -> JournalStatus:
        reason = self._reason
        return JournalStatus(
            self._kind,
            "away" if reason else "ok",
            reason,
            len(self._outbox),
            self._outbox.dropped,
            self._skipped,
            max(0.0, self._now() - self._away_since) if reason else 0.0,
        )

    async def settled(self) -> None:
        await self._outbox.settled()

    async def _catch_up(self, within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._caught_up.wait()

    async def _settle(self) -> None:
        """At the end: give a store that is there a moment to confirm what waits."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                if not self._reason:
                    await self.settled()

    def _is_away(self, reason: str) -> None:
        if not self._reason:
            self._away_since = self._now()
        self._reason = reason
