"""Where requests wait for a place at a replica. The places are the caller's; the order is `FairQueue`'s."""

from __future__ import annotations

import asyncio
import enum
import math
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

from gateway.clock import Clock
from gateway.config.queue_options import QueueOptions
from gateway.errors import ApiError, Overloaded
from gateway.standing import ALL_ALIKE, Standing, Weights
from gateway.telemetry import Telemetry, series
from router.fair_queue import Entry, FairQueue
from router.pace import Pace

RECHECK_S = 0.02
"""While anybody waits, claims are tried this often, for what frees up by time alone: breakers, rests, predictions."""

EAGER = 8
"""With more that wait, one that comes looks for no place of its own: it waits for one to become free."""
CONTENDED_S = 60.0
"""After requests of different tenants followed on each other, places are kept for those who had less for this long."""

MOST_PASSED = 8
"""Requests that are better off waiting, before the others are asked no more at this instant: each costs a choice."""


class Later(enum.Enum):
    """In place of a claim: there are places, but this request is better off waiting for another one."""

    LATER = 0


LATER = Later.LATER

C = TypeVar("C")
Claim = Callable[[bool], C | Later | None]
"""Takes a place for good; `LATER`; or None: there is none for anybody of its group. True: only a place where it keeps
nobody waiting who may come later."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a request is to the queue.

    cost:       see `router.fair_queue.charge`.
    group:      where one request of a group finds no place, no other one does; None: there is no telling. The replicas
                that may see a request make a good group.
    deadline_s: orders the requests of a tenant; None: by age. Passing it has no other effect.
    until_s:    when the request's own time is up; None: only `queue.max_wait_s` counts.
    flow:       of the tenant: its flows take turns; empty: none in particular.
    """

    tenant: str
    cost: float
    priority: int = 0
    group: Hashable | None = None
    deadline_s: float | None = None
    until_s: float | None = None
    flow: str = ""


class Turn(Generic[C]):
    """A request's turn. Unless it is settled, its tenant is paid back when its `with` block is left.

    claim:    the place that was found for it, which is now the request's to give back.
    position: in the queue when it came, 1 being next; 0: it did not wait. eta_s: predicted then; None: unknown.
    queued_s: how long it waited.
    """

    __slots__ = ("_entry", "_queue", "_settled", "claim", "eta_s", "position", "queued_s")

    def __init__(self, queue: FairQueue[_Waiter[C]], entry: Entry[_Waiter[C]], claim: C) -> None:
        self._queue = queue
        self._entry = entry
        self._settled = False
        self.claim = claim
        self.position = 0
        self.eta_s: float | None = None
        self.queued_s = 0.0

    def __repr__(self) -> str:
        return f"<Turn position={self.position} queued_s={self.queued_s:.3f} {self._entry!r}>"

    def settle(self, cost: float) -> None:
        """What it cost in the end, in place of the ticket's figure. May be called anew, with a better figure."""
        self._settled = True
        self._queue.settle(self._entry, cost)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._settled:
            self.settle(0.0)


class _Waiter(Generic[C]):
    __slots__ = ("claim", "claimed", "error", "group", "turn")

    def __init__(self, claim: Claim[C], group: Hashable | None) -> None:
        self.claim = claim
        self.group = group
        self.claimed: C | None = None
        self.error: Exception | None = None
        self.turn: asyncio.Future[None] | None = None
        """Done when there is a place or an error."""

    def call(self) -> None:
        if self.turn is not None and not self.turn.done():
            self.turn.set_result(None)

    def refuse(self, error: Exception) -> None:
        self.error = error
        self.call()


class WaitingRoom(Generic[C]):
    """The queue of one deployment, in one worker; used from its event loop alone.

    Every request of the deployment comes through here, or it would pass those that wait. A place that frees up is found
    by the request that gets it, at that moment: `claim` is called in the order of the queue, takes a place for good and
    returns it, or None if there is none. So as many get their turn as there are places, and each is bound as late as
    can be.

    Args:
        name: the deployment's.
        options: its `queue` section.
        release: gives back a claim that its request, gone in the meantime, could not take over.
        standing: of tenants of whom the section says nothing.
    """

    def __init__(
        self,
        name: str,
        options: QueueOptions,
        clock: Clock,
        telemetry: Telemetry,
        release: Callable[[C], None],
        standing: Standing = ALL_ALIKE,
    ) -> None:
        self._name = name
        self._options = options
        self._clock = clock
        self._telemetry = telemetry
        self._release = release
        weights = Weights(options.weights, standing)
        self._queue: FairQueue[_Waiter[C]] = FairQueue(options.max_waiting, options.age_s, weights)
        self._full: set[tuple[Hashable, bool]] = set()
        """Groups for which there was no place when last asked, with how they asked; nothing has freed up since."""
        self._passed = 0
        """Requests that were better off waiting, since turns were last given."""
        self._groups: Counter[Hashable | None] = Counter()
        """Requests that wait, by group; those that have been called may still be counted."""
        self._called: asyncio.Handle | None = None
        self._recheck: asyncio.TimerHandle | None = None
        self._pace = Pace()
        self._closed = False
        self._tenant: str | None = None
        """Of the last request."""
        self._contended_until_s = 0.0
        telemetry.watch(series.QUEUE_LENGTH.name, lambda: [((name,), len(self))])

    def __repr__(self) -> str:
        return f"<WaitingRoom {self._name} {self._queue!r}>"

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    async def enter(self, ticket: Ticket, claim: Claim[C]) -> Turn[C]:
        """Returns when it is this request's turn and it has a place. Cancelling it gives up the turn and the place.

        Raises:
            Overloaded: there is no room to wait, or the wait was too long, or the gateway is shutting down.
            Exception: whatever `claim` raised.
        """
        now_s = self._clock.monotonic()
        if self._closed:
            raise self._refusal("closing", _CLOSING)
        deadline_s = now_s + self._options.max_wait_s if ticket.deadline_s is None else ticket.deadline_s
        waiter = _Waiter(claim, ticket.group)
        entry = Entry(ticket.tenant, ticket.cost, waiter, ticket.priority, deadline_s, ticket.flow)
        self._contended(ticket.tenant, now_s)
        if not self._queue:
            strict = now_s < self._contended_until_s
            claimed = claim(strict)
            if claimed is not None and not isinstance(claimed, Later):
                self._queue.pass_by(entry, now_s)
                self._telemetry.queue_wait(self._name, 0.0)
                return Turn(self._queue, entry, claimed)
            self._pace.resume(now_s)
            self._full.clear()
            if claimed is None:
                self._note_full(ticket.group, strict=strict)
        return await self._wait(entry, ticket, now_s)

    def lets_pass(self, tenant: str) -> bool:
        """Whether a request need not enter: nobody waits, and nobody else was about for a while."""
        now_s = self._clock.monotonic()
        self._contended(tenant, now_s)
        return not self._queue and not self._closed and now_s >= self._contended_until_s

    def _contended(self, tenant: str, now_s: float) -> None:
        if tenant != self._tenant:
            if self._tenant is not None:
                self._contended_until_s = now_s + CONTENDED_S
            self._tenant = tenant

    def is_strict_with(self, tenant: str) -> bool:
        """Whether a request of the tenant that came now would have to keep nobody else waiting. Changes nothing."""
        follows_another = self._tenant is not None and tenant != self._tenant
        return follows_another or self._clock.monotonic() < self._contended_until_s

    def wake(self) -> None:
        """Call it whenever a place may have become free. Cheap; may be called from anywhere in the loop."""
        if not self._queue:
            return
        self._full.clear()
        if self._called is None:
            self._called = asyncio.get_running_loop().call_soon(self._hand_out)

    def ahead_s(self) -> float:
        """How long those that wait will take, at the present rate; 0.0 while it is unknown."""
        rate = self._pace.per_s(self._clock.monotonic()) if self._queue else 0.0
        return len(self) / rate if rate else 0.0

    def retry_after_s(self) -> float:
        """When somebody who comes now would get a turn, at the present rate."""
        rate = self._pace.per_s(self._clock.monotonic())
        return (len(self) + 1) / rate if rate else 1.0

    def close(self) -> None:
        """Turn away those that wait and those that come. For the end of a drain."""
        self._closed = True
        for entry in list(self._queue):
            self._queue.remove(entry)
            entry.payload.refuse(self._refusal("closing", _CLOSING))
        self._rest()

    async def _wait(self, entry: Entry[_Waiter[C]], ticket: Ticket, now_s: float) -> Turn[C]:
        waiter, loop = entry.payload, asyncio.get_running_loop()
        self._push(entry, now_s)
        self._groups[waiter.group] += 1
        position = self._queue.position(entry) + 1
        rate = self._pace.per_s(now_s)
        waiter.turn = loop.create_future()
        if self._may_find(entry, now_s):
            self._hand_out()
        own_s = math.inf if ticket.until_s is None else ticket.until_s - now_s
        expiry = loop.call_later(max(0.0, min(own_s, self._options.max_wait_s)), self._expire, entry, own_s)
        if self._recheck is None:
            self._recheck = loop.call_later(RECHECK_S, self._check_again)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            self._gave_up(entry)
            raise
        finally:
            expiry.cancel()
            self._leave(waiter.group)
            self._rest()
        if waiter.claimed is None:
            assert waiter.error is not None
            raise waiter.error
        turn = Turn(self._queue, entry, waiter.claimed)
        turn.position, turn.eta_s = position, position / rate if rate else None
        turn.queued_s = self._clock.monotonic() - now_s
        self._telemetry.queue_wait(self._name, turn.queued_s)
        return turn

    def _strict(self, entry: Entry[_Waiter[C]], now_s: float) -> bool:
        return now_s < self._contended_until_s and not entry.behind

    def _may_find(self, entry: Entry[_Waiter[C]], now_s: float) -> bool:
        """Whether one that comes may find a place that others left."""
        group = entry.payload.group
        if group is None:
            return entry.behind or len(self) <= EAGER
        return (group, self._strict(entry, now_s)) not in self._full

    def _note_full(self, group: Hashable | None, *, strict: bool) -> None:
        if group is not None:
            self._full.add((group, True))
            if not strict:
                self._full.add((group, False))

    def _push(self, entry: Entry[_Waiter[C]], now_s: float) -> None:
        shed = self._queue.push(entry, now_s)
        if shed is None:
            return
        limit = f"`queue.max_waiting` is {self._options.max_waiting}"
        if shed is entry:
            message = f"No replica of {self._name!r} has a place, and {len(self)} requests wait already; {limit}."
            raise self._refusal("full", message)
        message = f"Too many requests wait for {self._name!r}, and others go first; {limit}."
        shed.payload.refuse(self._refusal("displaced", message))

    def _hand_out(self) -> None:
        """Give turns as long as there are places."""
        if self._called is not None:
            self._called.cancel()
            self._called = None
        now_s = self._clock.monotonic()
        self._passed = 0
        while (entry := self._queue.pop(now_s, self._claims)) is not None:
            if entry.payload.error is not None:
                self._queue.settle(entry, 0.0)
            else:
                self._pace.left(now_s)
            entry.payload.call()

    def _claims(self, entry: Entry[_Waiter[C]]) -> bool | None:
        """Whether there is a place for it; if so it has been taken. None: there is none for anybody."""
        waiter = entry.payload
        strict = self._strict(entry, self._clock.monotonic())
        if (waiter.group, strict) in self._full:
            return False
        try:
            claimed = waiter.claim(strict)
        except Exception as error:
            waiter.error = error  # its own request's, not that of whoever freed a place
            return True
        if isinstance(claimed, Later):
            self._passed += 1
            return None if self._passed >= MOST_PASSED else False
        waiter.claimed = claimed
        if claimed is not None:
            return True
        self._note_full(waiter.group, strict=strict)
        return None if all((group, False) in self._full for group in self._groups) else False

    def _check_again(self) -> None:
        self._full.clear()
        self._hand_out()
        self._recheck = asyncio.get_running_loop().call_later(RECHECK_S, self._check_again) if self._queue else None

    def _expire(self, entry: Entry[_Waiter[C]], own_s: float) -> None:
        if entry not in self._queue:
            return
        ahead = self._queue.position(entry)
        self._queue.remove(entry)
        waited_s = self._clock.monotonic() - entry.since_s
        most = f"`queue.max_wait_s` is {self._options.max_wait_s:g}"
        if own_s < self._options.max_wait_s:
            most = "the time of the request, `timeouts.total_s`, is up"
        message = f"The request waited {waited_s:.1f} s for {self._name!r}, with {ahead} still ahead of it; {most}."
        entry.payload.refuse(self._refusal("timeout", message))

    def _gave_up(self, entry: Entry[_Waiter[C]]) -> None:
        """The request is gone (A01). If it had been called, its place goes to the next."""
        waiter = entry.payload
        if self._queue.remove(entry) or waiter.claimed is None:
            return
        self._queue.settle(entry, 0.0)
        self._release(waiter.claimed)
        self.wake()

    def _leave(self, group: Hashable | None) -> None:
        self._groups[group] -= 1
        if not self._groups[group]:
            del self._groups[group]

    def _rest(self) -> None:
        """With nobody left, no timer runs."""
        if self._queue:
            return
        if self._recheck is not None:
            self._recheck.cancel()
            self._recheck = None
        if self._called is not None:
            self._called.cancel()
            self._called = None

    def _refusal(self, reason: str, message: str) -> ApiError:
        self._telemetry.queue_shed(self._name, reason)
        return Overloaded(message, retry_after_s=max(1.0, self.retry_after_s()))


_CLOSING = "The gateway is shutting down; another one may answer."
