"""Follows what one engine, or one data-parallel rank of it, publishes of its KV cache.

Publishing loses messages: when a queue is full, when the connection breaks, before it stands. So every message is
numbered, and what is missing is asked for at the replay socket, which has the last of them. There is no way to ask for
the cache as it is: who cannot read every message since the engine's start, or since its cache was last empty, does not
know all of it.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Iterator
from itertools import chain

from engines.kv_events.codec import Batch, Malformed, decode
from engines.kv_events.sequence import Sequence, Verdict
from engines.kv_events.sockets import (
    END,
    ConnectionLost,
    Message,
    Sockets,
    Subscription,
    message_in,
)
from engines.kv_events.sources import Source
from engines.kv_events.tracker import Tracker

logger = logging.getLogger(__name__)

TURN_BLOCKS = 256
"""Blocks handled in one turn of the event loop; about 0.5 ms."""
MESSAGE_BLOCKS = 32
"""What receiving a message costs, in blocks."""
CONNECT_S = 10.0
REPLAY_S = 5.0
"""Longest pause in a replay. An engine answers between two of its steps."""
QUIET_S = 0.2
"""After that long without a message the last ones may be lost: the engine is asked, once. It has little else to do."""
MAX_REPLAYS = 100
"""For one gap. Each has to bring something; an engine sends at most some thousand messages at once."""


_UNREADABLE = Batch(float("-inf"), [])


class _Replay(enum.Enum):
    """How a replay ended."""

    COMPLETE = enum.auto()
    HOLE = enum.auto()
    """The publisher dropped some of it."""
    OTHER = enum.auto()
    """The publisher is not the one that was read before."""
    SILENT = enum.auto()
    """No answer, or none to the end."""


class Subscriber:
    """One reader. What it knows outlives its connections.

    quiet_s, replay_s: see the constants.
    missed: how often messages were lost for good; malformed: messages that could not be read.
    """

    def __init__(
        self,
        source: Source,
        tracker: Tracker,
        sockets: Sockets,
        *,
        connect_s: float = CONNECT_S,
        quiet_s: float = QUIET_S,
        replay_s: float = REPLAY_S,
    ) -> None:
        self.source = source
        self.tracker = tracker
        self.missed = self.malformed = self.replays = 0
        self._sockets = sockets
        self._connect_s = connect_s
        self._quiet_s = quiet_s
        self._replay_s = replay_s
        self._sequence = Sequence()
        self._unchecked = False
        self._blocks = 0

    def __repr__(self) -> str:
        return f"<Subscriber {self.source.endpoint} {self._sequence!r} {self.tracker!r}>"

    async def run(self, connected: Callable[[], None] | None = None) -> None:
        """Follow the publisher until its connection is lost. May be called again, with another `source` too.

        connected: called once the connection stands, and what was missed before it has been read.

        Raises:
            MissingLibrary: pyzmq is not installed.
            ValueError: an endpoint is none.
        """
        with self._sockets.subscription(self.source.endpoint, self.source.topic) as live:
            try:
                await live.connected(self._connect_s)
                self._sequence.reconnected()
                if not await self._catch_up():
                    self.tracker.suspend()  # until its next message shows whether it is the engine that it was
                if connected is not None:
                    connected()
                while True:
                    frames = await live.receive(self._quiet_s)
                    if frames is not None:
                        await self._take(frames)
                    elif self._unchecked:
                        await self._check(live)
            except ConnectionLost:
                logger.debug("%s: connection lost", self.source.endpoint)

    # Live messages

    async def _take(self, frames: list[bytes]) -> None:
        message = message_in(frames)
        if message is None:
            self._garbled(f"a message of {len(frames)} frames has no number")
            return
        number, payload = message
        batch = self._read(payload)
        verdict = self._sequence.judge(number, batch.ts_s)
        if verdict is Verdict.SEEN:
            return
        if verdict is Verdict.RESTART:
            self._restarted()
        while (missing := number - self._sequence.next) > 0:
            await self._catch_up()
            if number - self._sequence.next == missing:
                self._lost(number)
        if number == self._sequence.next:
            if self.tracker.suspended:
                await self._in_turns(self.tracker.resume())
            await self._apply(number, payload, batch)
            self._unchecked = True

    async def _apply(self, number: int, payload: bytes, batch: Batch) -> None:
        """Take the message whose turn it is."""
        if number == 0:
            self.tracker.begin()
        self._sequence.took(number, batch.ts_s, payload)
        if batch is _UNREADABLE:
            self._lost(number + 1)
        await self._in_turns(self.tracker.apply(batch.events))

    def _read(self, payload: bytes) -> Batch:
        try:
            return decode(payload)
        except Malformed as error:
            self._garbled(str(error))
            return _UNREADABLE

    def _garbled(self, what: str) -> None:
        """Said once: a publisher that speaks another language does so all the time."""
        self.malformed += 1
        if self.malformed == 1:
            logger.warning("%s: %s", self.source.endpoint, what)

    async def _in_turns(self, steps: Iterator[int]) -> None:
        """Go through all steps, giving the event loop its turn now and then."""
        try:
            for blocks in chain(steps, (MESSAGE_BLOCKS,)):
                self._blocks += blocks
                if self._blocks >= TURN_BLOCKS:
                    self._blocks = 0
                    await asyncio.sleep(0)
        finally:
            for _ in steps:  # cancelled: a message is taken as a whole
                pass

    def _lost(self, number: int) -> None:
        """Go on with `number`: what was before it will not come."""
        self.missed += 1
        logger.debug("%s: messages %d to %d are lost", self.source.endpoint, self._sequence.next, number - 1)
        self._sequence.next = number
        self.tracker.missed()

    def _restarted(self) -> None:
        logger.debug("%s: the engine began anew", self.source.endpoint)
        self._sequence.reset()
        self.tracker.restarted()

    # Messages that were missed

    async def _catch_up(self) -> bool:
        """Read what the engine still has of what was not read. False: it cannot be asked."""
        self._unchecked = False
        if not self.source.replay_endpoint:
            return False
        for _ in range(MAX_REPLAYS):
            before = self._sequence.next
            ended = await self._replay()
            if ended is _Replay.COMPLETE:
                if self._sequence.next == 0:
                    self.tracker.begin()  # it has told nothing since it began
                elif self.tracker.suspended:
                    await self._in_turns(self.tracker.resume())
                return True
            if ended is _Replay.OTHER:
                self._restarted()
            elif ended is _Replay.SILENT or self._sequence.next == before:
                break
        return False

    async def _check(self, live: Subscription) -> None:
        """Ask whether the last messages were lost. A message that comes meanwhile says so itself, and need not wait:
        an engine with nothing to do answers after 0.1 s."""
        check = asyncio.get_running_loop().create_task(self._catch_up())
        try:
            await live.until(check)
        finally:
            if not check.done():
                self._unchecked = True
                check.cancel()
            await asyncio.gather(check, return_exceptions=True)
        if not check.cancelled():
            check.result()

    async def _replay(self) -> _Replay:
        """Ask for the message that was read last and all after it: if it is not that one, the engine began anew."""
        self.replays += 1
        known = self._sequence.next > 0
        with self._sockets.replay(self.source.replay_endpoint, max(self._sequence.next - 1, 0)) as replay:
            first = True
            while True:
                try:
                    message = await replay.receive(self._replay_s)
                except TimeoutError:
                    return _Replay.SILENT
                if message is None or message[0] == END:
                    return _Replay.OTHER if first and known else _Replay.COMPLETE
                if first:
                    first = False
                    if known and message[0] < self._sequence.next:
                        if self._sequence.is_last(message[1]):
                            continue
                        return _Replay.OTHER
                    if message[0] > 0:
                        self._lost(message[0])
                if not await self._replayed(message):
                    return _Replay.HOLE

    async def _replayed(self, message: Message) -> bool:
        """Take a message of a replay; False: one before it is missing."""
        number, payload = message
        if number == self._sequence.next:
            await self._apply(number, payload, self._read(payload))
        return number < self._sequence.next
