"""The office's end of the directory feed: it follows the database, and tells every worker that listens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from socket import socket
from typing import Protocol

from gateway.backoff import Backoff
from gateway.clock import Clock, wall_time_s
from gateway.database import DatabaseError
from gateway.directory.entries import Changes, Snapshot
from gateway.directory.frames import Alive, Changed, Frame, pack
from gateway.office.book import Book
from gateway.office.keepsake import Keepsake

logger = logging.getLogger(__name__)

POLL_S = 0.2
"""A revocation is nowhere later than this and the time for one query (A18)."""
MAX_POLL_S = 2.0
"""While it is away."""
ALIVE_S = 1.0
LATE_S = 3.0
"""A database that did not answer for so long counts as away."""
PATIENCE_S = 3.0
"""How long a start waits for the database before the file has to do."""
MAX_BEHIND = 10_000
"""Frames that a worker may leave unread; one that hangs is cut off, and asks anew."""


class Source(Protocol):
    """The database. Both wait for it."""

    async def snapshot(self) -> Snapshot:
        """Raises DatabaseError."""
        ...

    async def changes_since(self, seq: int) -> Changes | None:
        """None: nothing leads from `seq` to what is there now. Raises DatabaseError."""
        ...


class Feed:
    """Follows `source`, and tells of it.

    on_frame: told of every frame as well, in this process.
    """

    def __init__(
        self,
        source: Source,
        keepsake: Keepsake,
        clock: Clock,
        rng: random.Random,
        on_frame: Callable[[Frame], None],
        wall_s: Callable[[], float] = wall_time_s,
    ) -> None:
        self._source = source
        self._keepsake = keepsake
        self._clock = clock
        self._wall_s = wall_s
        self._on_frame = on_frame
        self._backoff = Backoff(rng, POLL_S, MAX_POLL_S)
        self._lines: set[asyncio.Queue[bytes | None]] = set()
        self._talks: set[asyncio.Task[None]] = set()
        self._something = asyncio.Event()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="headrace-keepsake")
        self._looked = asyncio.Event()
        self._away_since_s: float | None = None
        self._told_at = 0.0
        self._is_reached = False
        """Whether the book is the database's, and not the file's."""
        self.book = Book()

    async def known(self) -> None:
        """Wait until there is something to tell; not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S + 1.0):
                while not self.book.known:
                    self._something.clear()
                    await self._something.wait()

    @property
    def is_up(self) -> bool:
        """Whether the database answers."""
        return self._wall_s() - self.book.at < LATE_S

    # Following

    async def run(self) -> None:
        """Does not return."""
        loop = asyncio.get_running_loop()
        remembering = loop.create_task(self._remember_unless_reached())
        try:
            while True:
                await self._clock.sleep(await self._look())
        finally:
            remembering.cancel()
            self._disk.shutdown(wait=False)

    async def _look(self) -> float:
        """Ask the database once. Returns how long to wait before the next time."""
        try:
            await self._ask()
        except DatabaseError as error:
            self._tell_away(error)
            self._looked.set()
            return self._backoff.pause_s()
        self._tell_back()
        self._looked.set()
        self._backoff.reset()
        return POLL_S

    async def _ask(self) -> None:
        asked_at = self._wall_s()
        changes = await self._source.changes_since(self.book.seq) if self._is_reached else None
        if changes is None:
            self.book.replace(await self._source.snapshot(), asked_at)
            self._is_reached = True
            await self._tell_all()
        elif changes.seq != self.book.seq:
            await self._tell(Changed(changes, asked_at))
        elif asked_at - self._told_at >= ALIVE_S:
            await self._tell(Alive(asked_at))
        else:
            self.book.at = asked_at

    async def _remember_unless_reached(self) -> None:
        """On a start without the database, what was last known is gone by."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._looked.wait()
        if self.book.known:
            return
        try:
            frames = await asyncio.get_running_loop().run_in_executor(self._disk, lambda: list(self._keepsake.read()))
        except (OSError, ValueError) as error:
            logger.error("the database is away, and no directory can be read from %s: %s", self._keepsake.path, error)
            return
        if not self.book.known:
            for frame in frames:
                self.book.take(frame)
            logger.warning(
                "the database is away: %d keys are taken as %s has them", len(self.book), self._keepsake.path
            )
            self._send(self.book.frames())

    def _tell_away(self, error: DatabaseError) -> None:
        if self._away_since_s is None:
            self._away_since_s = self._clock.monotonic()
            logger.error("the database is away: %s; keys that are known go on (database.grace_s)", error)

    def _tell_back(self) -> None:
        if self._away_since_s is not None:
            logger.warning("the database is back after %.1f s", self._clock.monotonic() - self._away_since_s)
            self._away_since_s = None

    # Telling

    async def _tell_all(self) -> None:
        self._told_at = self.book.at
        self._send(self.book.frames())
        await self._keep(partial(self._keepsake.write, self.book.frames()))

    async def _tell(self, frame: Changed | Alive) -> None:
        self._told_at = frame.at
        self.book.take(frame)
        self._send([frame])
        await self._keep(partial(self._put_away, frame, self.book.frames()))

    def _put_away(self, frame: Frame, frames: Iterable[Frame]) -> None:
        if not self._keepsake.append(frame):
            self._keepsake.write(frames)

    async def _keep(self, work: Callable[[], object]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._disk, work)
        except OSError as error:
            logger.error("the directory cannot be kept in %s: %s", self._keepsake.path, error)

    def _send(self, frames: Iterable[Frame]) -> None:
        self._something.set()
        for frame in frames:
            self._on_frame(frame)
            packed = pack(frame)
            for line in list(self._lines):
                self._put(line, packed)

    def _put(self, line: asyncio.Queue[bytes | None], packed: bytes) -> None:
        if line.qsize() < MAX_BEHIND:
            line.put_nowait(packed)
        else:
            self._lines.discard(line)
            line.put_nowait(None)

    # Workers

    async def serve(self, listener: socket) -> None:
        """Answer workers. Does not return."""
        server = await asyncio.start_unix_server(self._welcome, sock=listener)
        try:
            async with server:
                await server.serve_forever()
        finally:
            for talk in self._talks:
                talk.cancel()
            if self._talks:
                await asyncio.wait(self._talks)

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._talk(writer)
        finally:
            self._talks.discard(talk)
            writer.close()

    async def _talk(self, writer: asyncio.StreamWriter) -> None:
        line: asyncio.Queue[bytes | None] = asyncio.Queue()
        while not self.book.known:
            self._something.clear()
            await self._something.wait()
        frames = self.book.frames()
        self._lines.add(line)
        try:
            for frame in frames:
                writer.write(pack(frame))
                await writer.drain()
            while (packed := await line.get()) is not None:
                writer.write(packed)
                await writer.drain()
        finally:
            self._lines.discard(line)
