"""What several gateways have in flight, told to each other: workers of one machine, and machines (R06).

Nobody waits for anybody: each tells his sums five times a second at places where all look, and reads what the others
told there. Whoever has not told anything for a while is gone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from gateway.clock import Clock
from gateway.corrections import Corrections
from gateway.process.board import MAX_NOTE_BYTES, Turn
from router.correction import NONE, Sums

logger = logging.getLogger(__name__)

EVERY_S = 0.2
HEARTBEAT_S = 1.0
"""Sums that have not changed are told again after this."""
GONE_S = 2.0
"""What a peer told counts for at most this long."""
RETRY_S = 1.0
"""A place that failed is tried again after this."""
SAY_S = 60.0
"""How often it is said that it still fails."""
MOST = 1e12
"""A sum above this, or below 0, is none."""
MAX_ENGINES = 400
"""Engines in one note; a gateway with more tells of those with most in flight."""


class Note(msgspec.Struct, frozen=True, array_like=True):
    """What one gateway worker has in flight. The wire form is msgpack.

    sender: 64 random bits. sums: by engine, `Sums` in its order.
    """

    sender: int
    sums: dict[int, tuple[float, float, float]]


class Place(Protocol):
    """Where notes are left and found."""

    @property
    def name(self) -> str: ...

    async def trade(self, note: bytes | None) -> list[bytes]:
        """Leave a note in place of one's last one (None: that one stays), and read those of all others.

        Raises:
            PlaceFailed: the place cannot be had in time.
        """
        ...

    async def aclose(self) -> None:
        """Take one's note away. Takes a moment at most."""
        ...


class PlaceFailed(Exception):
    pass


class BoardPlace:
    """Implements `Place` in the memory that the workers of one supervisor share."""

    name = "board"

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    async def trade(self, note: bytes | None) -> list[bytes]:
        if note is not None:
            self._turn.tell(note if len(note) <= MAX_NOTE_BYTES else b"")
        return self._turn.others_told()

    async def aclose(self) -> None:
        self._turn.tell(b"")


class _Link:
    """One place, and how it goes there."""

    def __init__(self, place: Place, sender: int) -> None:
        self.place = place
        self.degraded = False
        self._sender = sender
        self._told: bytes | None = None
        self._told_s = 0.0
        self._read_s = 0.0
        self._retry_s = 0.0
        self._said_s = 0.0
        self.met: frozenset[int] | None = None
        """Who was there when it was last read; None: it has never been."""
        self._notes: list[Note] = []

    def __repr__(self) -> str:
        return f"<{self.place.name}{' degraded' if self.degraded else ''} notes={len(self._notes)}>"

    async def trade(self, note: bytes, clock: Clock) -> None:
        now_s = clock.monotonic()
        if now_s < self._retry_s:
            return
        due = note != self._told or now_s - self._told_s >= HEARTBEAT_S
        try:
            found = await self.place.trade(note if due else None)
        except PlaceFailed as error:
            self._failed(error, clock.monotonic())
            return
        if due:
            self._told, self._told_s = note, now_s
        self._notes = [told for told in map(_decoded, found) if told is not None and told.sender != self._sender]
        self._read_s, self.met = now_s, frozenset(told.sender for told in self._notes)
        if self.degraded:
            self.degraded = False
            logger.info("peers: %s answers again", self.place.name)

    def notes(self, now_s: float) -> list[Note]:
        """As long as they count."""
        return self._notes if now_s - self._read_s <= GONE_S else []

    def _failed(self, error: PlaceFailed, now_s: float) -> None:
        self._retry_s, self._told = now_s + RETRY_S, None
        if not self.degraded or now_s - self._said_s >= SAY_S:
            self._said_s = now_s
            logger.warning("peers: %s: %s; this gateway goes by its own books until it answers", self.place.name, error)
        self.degraded = True


class Peers:
    """One for each worker, used from its event loop alone.

    places: where peers are met. A peer that is at several counts once.
    """

    def __init__(self, places: Sequence[Place], corrections: Corrections, clock: Clock, rng: random.Random) -> None:
        self._sender = secrets.randbits(63)
        self._links = [_Link(place, self._sender) for place in places]
        self._corrections = corrections
        self._clock = clock
        self._rng = rng
        self._count = 0
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"<Peers {self._count} at {self._links}>"

    @property
    def blind(self) -> bool:
        """Whether there are peers, or may be, that cannot be seen at this moment."""
        seen = {sender for link in self._links if not link.degraded for sender in link.met or ()}
        return any(link.degraded and (link.met is None or not link.met <= seen) for link in self._links)

    @property
    def last_seen(self) -> int:
        """Peers, with those that were seen last at a place that cannot be reached at this moment."""
        return len({sender for link in self._links for sender in link.met or ()})

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run(link)) for link in self._links]

    async def aclose(self) -> None:
        """Idempotent. Takes a moment at most, even if nobody answers."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in self._links:
            await link.place.aclose()

    async def meet(self, link: _Link | None = None) -> None:
        """Tell and read once, at one place or at all, and correct the loads by what was read."""
        note = self._note()
        for one in self._links if link is None else [link]:
            await one.trade(note, self._clock)
        now_s = self._clock.monotonic()
        peers = {told.sender: told for each in self._links for told in each.notes(now_s)}
        self._count = len(peers)
        self._corrections.heard(_added(peers.values()))
        self._corrections.apply(now_s)

    def counts(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Peers that are seen, for the metrics."""
        return [((), float(self._count))]

    def degraded(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """By place, 1.0 while it fails, for the metrics."""
        return [((link.place.name,), float(link.degraded)) for link in self._links]

    async def _run(self, link: _Link) -> None:
        """Does not return."""
        while True:
            await self._clock.sleep(EVERY_S * (0.9 + 0.2 * self._rng.random()))
            try:
                await self.meet(link)
            except Exception:
                logger.exception("peers: %s", link.place.name)
                await self._clock.sleep(RETRY_S)

    def _note(self) -> bytes:
        own = self._corrections.own()
        if len(own) > MAX_ENGINES:
            busiest = sorted(own, key=lambda key: own[key].in_flight, reverse=True)[:MAX_ENGINES]
            own = {key: own[key] for key in busiest}
        told = {
            key: (sums.in_flight, sums.prefill_tokens, float(round(sums.context_tokens))) for key, sums in own.items()
        }
        return _encoder.encode(Note(self._sender, told))


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Note)


def _decoded(raw: bytes) -> Note | None:
    try:
        return _decoder.decode(raw)
    except msgspec.DecodeError:
        return None


def _added(notes: Iterable[Note]) -> dict[int, Sums]:
    total: dict[int, Sums] = {}
    for note in notes:
        for key, sums in note.sums.items():
            total[key] = total.get(key, NONE) + Sums(*(number if 0.0 <= number <= MOST else 0.0 for number in sums))
    return total
