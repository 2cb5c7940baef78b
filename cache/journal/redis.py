"""A journal in Redis or Valkey, for the workers of several gateways.

One stream has the records; a hash has snapshots of what cohorts learned, each with the last record that it knows of, so
that judgements may leave the stream. All keys share a hash tag, so that they lie in one slot of a cluster.

Redis confirms what it has in memory: how much of it a crash of Redis loses is for its own persistence to say. One that
was emptied is noticed by a mark that is gone. Workers then go on with what they have in memory, until that has had its
time, and tell the others nothing of it again: who empties a store wants it empty. What cohorts learned is told again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from operator import itemgetter
from typing import Protocol, TypeAlias, cast

import msgspec
from redis.exceptions import RedisError

from cache.entry import Added, Judged, Learned, Purged, Record, Selector
from cache.journal.outbox import StoredJournal, Waiting
from cache.journal.seam import SLICE, Listener, WallTime, decoded, tell

logger = logging.getLogger(__name__)

TAIL_S = 0.2
"""At most so long after another worker told a record it is read."""
BATCH = 64
"""Records in one round trip."""
AGAIN_S = 0.5
LONGEST_AGAIN_S = 10.0
CARE_S = 30.0
"""Between two clean-ups of the stream."""
CONNECT_S = 2.0
LEAST_KEPT_S = 3600.0
"""The stream is gone so long after the last worker, or when its entries would be."""
KEPT_S = 30 * 86400
"""Snapshots and the secret are gone so long after the last worker."""
MAX_RECORDS = 100_000
MANY_JUDGED = 500
"""Judgements of a cohort that are worth a snapshot."""
ORIGINS = 1024
"""Workers whose last record is remembered, so that one sent twice is taken once."""
START = b"0-0"

Fields: TypeAlias = list[bytes]
Found: TypeAlias = list[tuple[bytes, Fields]]


class Client(Protocol):
    """Of redis.asyncio, for one server or a cluster."""

    def execute_command(self, *words: str | bytes | float) -> Awaitable[object]: ...


class _Snapshot(msgspec.Struct, frozen=True, array_like=True):
    upto: bytes
    learned: Learned


class RedisJournal(StoredJournal):
    """Implements `Journal`.

    hang_up: closes the client's connections, so that a late answer is not taken for that to a later question.
    timeout_s: longest that Redis may take for one answer. keep_s: longest that an entry lives.
    """

    def __init__(
        self,
        client: Client,
        now: WallTime,
        *,
        hang_up: Callable[[], Awaitable[None]],
        prefix: str = "headrace",
        timeout_s: float = 0.5,
        keep_s: float = 3600.0,
        max_records: int = MAX_RECORDS,
    ) -> None:
        self._wake = asyncio.Event()
        super().__init__("redis", now, self._wake.set)
        self._client = client
        self._hang_up = hang_up
        self._timeout_s = timeout_s
        self._keep_s = keep_s
        self._max_records = max_records
        root = f"{{{prefix}}}:cache"
        self._stream, self._snapshots = f"{root}:records", f"{root}:learned"
        self._mark_key, self._secret_key = f"{root}:mark", f"{root}:secret"
        self._origin = secrets.token_bytes(8)
        self._task: asyncio.Task[None] | None = None
        self._connected = False
        self._again_s = AGAIN_S
        self._forget()
        self._mark = b""
        self._cared_at = 0.0
        self._judged: dict[str, int] = {}
        """Judgements of each cohort that are in no snapshot, as far as this worker knows."""
        self._kept_at: dict[str, float] = {}
        """When this worker last took a snapshot of them."""
        self._purges: list[tuple[Selector, bytes]] = []
        """Own purges whose entries are still in the stream, each with its place there."""

    async def start(self, listener: Listener, within_s: float = 2.0) -> None:
        self._listener = listener
        self._task = asyncio.get_running_loop().create_task(self._run(), name="cache-journal")
        await self._catch_up(within_s)

    async def aclose(self) -> None:
        if self._task is None:
            return
        await self._settle()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._hang_up()

    def _forget(self) -> None:
        """Read from the beginning, as a newcomer does."""
        self._last = START
        self._upto: dict[str, bytes] = {}
        self._untold: deque[_Snapshot] = deque()
        self._numbers: OrderedDict[bytes, int] = OrderedDict()
        """Of the last record of each worker."""

    async def _run(self) -> None:
        while True:
            try:
                await self._turn()
            except (RedisError, OSError, TimeoutError) as error:
                await self._away(error)
                continue
            except Exception as error:
                logger.exception("the response cache's journal has failed")
                await self._away(error)
                continue
            self._back()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TAIL_S):
                    await self._wake.wait()
            self._wake.clear()

    async def _turn(self) -> None:
        if not await self._is_marked():
            await self._join()
        while waiting := self._outbox.first(BATCH):
            await self._send(waiting)
        while await self._read():
            pass
        if self._now() - self._cared_at >= CARE_S:
            await self._care()

    async def _is_marked(self) -> bool:
        """Whether it is still the Redis that this worker has read so far."""
        return bool(self._mark) and await self._ask("GET", self._mark_key) == self._mark

    async def _join(self) -> None:
        for key, value in ((self._mark_key, secrets.token_bytes(8)), (self._secret_key, self._secret)):
            await self._ask("SET", key, value, "NX", "EX", KEPT_S)
        mark, secret = await self._ask("GET", self._mark_key), await self._ask("GET", self._secret_key)
        if not isinstance(mark, bytes) or not isinstance(secret, bytes):
            raise RedisError("its keys do not last")
        if self._mark:
            logger.warning("the response cache's Redis was emptied; entries in memory stay until they expire")
            self._judged = dict.fromkeys((*self._judged, *self._upto), MANY_JUDGED)
        self._secret = secret
        self._forget()
        await self._restore()
        self._mark = mark
        self._cared_at = 0.0

    async def _restore(self) -> None:
        """Each snapshot is told after the last record that it knows of: a cohort takes it in only for entries that it
        has."""
        found = cast("dict[bytes, bytes] | list[bytes]", await self._ask("HGETALL", self._snapshots))
        snapshots = []
        for body in list(found.values()) if isinstance(found, dict) else found[1::2]:
            with contextlib.suppress(msgspec.DecodeError, ValueError):
                snapshot = msgspec.msgpack.decode(body, type=_Snapshot)
                snapshots.append((_order(snapshot.upto), snapshot))
        self._untold = deque(snapshot for _, snapshot in sorted(snapshots, key=itemgetter(0)))
        self._upto = {snapshot.learned.cohort: snapshot.upto for snapshot in self._untold}

    def _tell_snapshots(self, before: bytes | None) -> None:
        """before: a place in the stream; None: all."""
        while self._untold and (before is None or _order(self._untold[0].upto) < _order(before)):
            self._tell(self._untold.popleft().learned)

    async def _send(self, waiting: list[Waiting]) -> None:
        for each in waiting:
            limit = ("MAXLEN", "~", self._max_records)
            fields = ("o", self._origin, "n", each.number, "r", each.body)
            place = cast(bytes, await self._ask("XADD", self._stream, *limit, "*", *fields))
            if isinstance(each.record, Purged):
                self._purges.append((each.record.selector, place))
                self._cared_at = 0.0
            self._outbox.confirm(each.number)

    async def _read(self) -> bool:
        """False: there is nothing more to read."""
        found = await self._range(self._last, SLICE)
        for place, fields in found:
            self._tell_snapshots(place)
            record = self._record_of(place, fields)
            if record is not None:
                self._tell(record)
            self._last = place
        if len(found) == SLICE:
            return True
        self._tell_snapshots(None)
        return False

    async def _range(self, after: bytes, count: int) -> Found:
        answer = await self._ask("XRANGE", self._stream, b"(" + after, "+", "COUNT", count)
        return [(place, _fields(fields)) for place, fields in cast("list[tuple[bytes, object]]", answer or [])]

    def _record_of(self, place: bytes, fields: Fields) -> Record | None:
        said = dict(zip(fields[::2], fields[1::2], strict=False))
        try:
            origin, number, body = said[b"o"], int(said[b"n"]), said[b"r"]
        except (KeyError, ValueError):
            self._skipped += 1
            return None
        if number <= self._numbers.get(origin, 0):
            return None  # it was sent again, because Redis took too long to say that it has it
        self._numbers[origin] = number
        self._numbers.move_to_end(origin)
        if len(self._numbers) > ORIGINS:
            self._numbers.popitem(last=False)
        record = decoded(body)
        if record is None:
            self._skipped += 1
        return None if isinstance(record, Judged) and self._is_known(record.cohort, place) else record

    def _is_known(self, cohort: str, place: bytes) -> bool:
        """Whether the snapshot of the cohort knows it."""
        if _order(place) <= _order(self._upto.get(cohort, START)):
            return True
        self._judged[cohort] = self._judged.get(cohort, 0) + 1
        return False

    async def _care(self) -> None:
        now = self._now()
        for cohort in [cohort for cohort, judged in self._judged.items() if self._is_due(cohort, judged, now)]:
            await self._keep(cohort, now)
        await self._ask("XTRIM", self._stream, "MINID", "~", f"{max(int((now - self._keep_s) * 1000), 0)}-0")
        await self._ask("EXPIRE", self._stream, int(max(self._keep_s, LEAST_KEPT_S)))
        for key in (self._mark_key, self._secret_key, self._snapshots):
            await self._ask("EXPIRE", key, KEPT_S)
        while self._purges:
            await self._scrub(*self._purges[0])
            del self._purges[0]
        self._cared_at = now

    def _is_due(self, cohort: str, judged: int, now: float) -> bool:
        """Long before its judgements leave the stream with the entries of their time."""
        return judged >= MANY_JUDGED or (judged > 0 and now - self._kept_at.get(cohort, 0.0) > self._keep_s / 4)

    async def _keep(self, cohort: str, now: float) -> None:
        assert self._listener is not None
        upto, learned = self._last, self._listener.learned(cohort, now)
        if learned is not None:
            body = msgspec.msgpack.encode(_Snapshot(upto, learned))
            await self._ask("HSET", self._snapshots, cohort, body)
            self._judged[cohort] = 0
            self._kept_at[cohort] = now

    async def _scrub(self, selector: Selector, before: bytes) -> None:
        """Take what was purged out of the stream."""
        after = START
        while found := await self._range(after, BATCH):
            places = [place for place, fields in found if _is_selected(fields, selector)]
            after = found[-1][0]
            if _order(after) > _order(before):
                places = [place for place in places if _order(place) < _order(before)]
            if places:
                await self._ask("XDEL", self._stream, *places)
            if _order(after) >= _order(before):
                return

    def _tell(self, record: Record) -> None:
        assert self._listener is not None
        tell(self._listener, record)

    async def _ask(self, *words: str | bytes | float) -> object:
        async with asyncio.timeout(self._timeout_s if self._connected else max(self._timeout_s, CONNECT_S)):
            answer = await self._client.execute_command(*words)
        self._connected = True
        return answer

    async def _away(self, error: Exception) -> None:
        timed_out = isinstance(error, TimeoutError)
        reason = f"no answer within {self._timeout_s:g} s" if timed_out else str(error) or type(error).__name__
        if not self._reason:
            logger.warning("the response cache goes on in memory alone: Redis: %s", reason)
        self._is_away(reason)
        self._connected = False
        self._caught_up.set()
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self._hang_up()
        await asyncio.sleep(self._again_s)
        self._again_s = min(2 * self._again_s, LONGEST_AGAIN_S)

    def _back(self) -> None:
        if self._reason:
            logger.info("the response cache has its Redis again")
        self._reason = ""
        self._again_s = AGAIN_S
        self._caught_up.set()


def _order(place: bytes) -> tuple[int, int]:
    milliseconds, _, count = place.partition(b"-")
    return int(milliseconds), int(count or 0)


def _fields(found: object) -> Fields:
    """Some clients answer with a mapping."""
    if isinstance(found, dict):
        return [part for pair in found.items() for part in pair]
    return list(cast("Fields", found or []))


def _is_selected(fields: Fields, selector: Selector) -> bool:
    said = dict(zip(fields[::2], fields[1::2], strict=False))
    record = decoded(said.get(b"r", b""))
    return isinstance(record, Added) and selector.matches(record.entry)
