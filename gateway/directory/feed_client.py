"""A worker's end of the directory feed: it listens to the office, and goes on with what it knows while that is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from pathlib import Path

from gateway.backoff import Backoff
from gateway.clock import Clock
from gateway.config import Config
from gateway.directory.frames import Frames, Keys, snapshot_file
from gateway.directory.ring import Ring
from gateway.process.machine import read_own, state_folder

logger = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""How long a start waits for the office before the file has to do."""
_READ_BYTES = 1 << 18


def feed_of(config: Config, path: str, clock: Clock, rng: random.Random) -> FeedClient | None:
    """None: there is no database to hear of."""
    if config.database is None:
        return None
    ring = Ring(config.database.grace_s)
    return FeedClient(path, snapshot_file(state_folder(), config.database), ring, clock, rng)


class FeedClient:
    """Fills a `Ring`.

    path: of the office's socket; empty: there is no office, and nothing is ever heard.
    file: where the office keeps what it last knew; read if it does not answer.
    """

    def __init__(self, path: str, file: Path, ring: Ring, clock: Clock, rng: random.Random) -> None:
        self.ring = ring
        self._path = path
        self._file = file
        self._clock = clock
        self._backoff = Backoff(rng, 0.05, 1.0)
        self._listening: asyncio.Task[None] | None = None

    async def start(self, patience_s: float = PATIENCE_S) -> None:
        """Returns when the directory is known; after `patience_s` as the file has it, or without, if there is none."""
        if not self._path:
            return
        self._listening = asyncio.create_task(self._listen())
        by_s = self._clock.monotonic() + patience_s
        while not self.ring.is_known and self._clock.monotonic() < by_s:
            await self._clock.sleep(0.005)
        if not self.ring.is_known:
            await self._read_file()

    async def aclose(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait((self._listening,))

    async def _listen(self) -> None:
        while True:
            try:
                await self._take_all()
            except (OSError, EOFError) as error:
                logger.debug("the office's feed %s: %s", self._path, error)
            except ValueError as error:
                logger.error("the office's feed %s makes no sense and is read anew: %s", self._path, error)
            await self._clock.sleep(self._backoff.pause_s())

    async def _take_all(self) -> None:
        """Until the office goes away."""
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            frames = Frames()
            while data := await reader.read(_READ_BYTES):
                await self._take(frames, data)
                self._backoff.reset()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _take(self, frames: Frames, data: bytes) -> None:
        for frame in frames.feed(data):
            self.ring.take(frame)
            if isinstance(frame, Keys):
                await asyncio.sleep(0)  # there may be a hundred more: requests come between

    async def _read_file(self) -> None:
        """For a start on which the office is in no state to tell anything."""
        try:
            data = await asyncio.to_thread(read_own, self._file)
            await self._take(Frames(), data)
        except (OSError, ValueError) as error:
            logger.error("nobody tells of the database's keys, and %s cannot be read either: %s", self._file, error)
        else:
            logger.warning("the office does not answer: keys are taken as %s has them", self._file)
