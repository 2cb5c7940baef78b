"""Texts of several callers, embedded together: no window to wait in, whatever waits when there is room goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeAlias

from cache.embed.seam import NoVector, Vector, unit

logger = logging.getLogger("headrace.cache")

Outcome: TypeAlias = "Vector | NoVector"
Work: TypeAlias = Callable[[Sequence[str]], Awaitable[Sequence[Outcome]]]
"""One outcome per text. What it raises is the outcome of them all."""

_SIMILAR = 2
"""Texts in a batch differ in length by this factor at most: the shorter ones are padded, and wait for the longer."""


@dataclass(frozen=True, slots=True)
class Room:
    """How much at once. `lanes`: batches under way together. `waiting`: texts that may wait."""

    texts: int = 32
    chars: int = 4096
    """In a batch of more than one."""
    lanes: int = 1
    waiting: int = 128
    timeout_s: float = 0.5
    """After which a caller has waited long enough."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    text: str
    outcome: asyncio.Future[Outcome]


@dataclass(slots=True)
class Batches:
    """Bounded: over `room.waiting` texts there is no vector, rather than a late one."""

    name: str
    work: Work
    room: Room
    _urgent: list[_Job] = field(default_factory=list)
    _later: list[_Job] = field(default_factory=list)
    _running: dict[asyncio.Task[None], list[_Job]] = field(default_factory=dict)
    _failing: bool = False
    _closed: bool = False

    async def run(self, texts: Sequence[str], *, urgent: bool) -> list[Vector]:
        """
        Raises:
            NoVector: for the first that has none.
        """
        if self._closed:
            raise NoVector("failed", "closed")
        queue = self._urgent if urgent else self._later
        if len(queue) + len(texts) > self.room.waiting:
            raise NoVector("busy", f"{len(queue)} texts wait already, {self.room.waiting} may")
        loop = asyncio.get_running_loop()
        jobs = [_Job(text, loop.create_future()) for text in texts]
        queue += jobs
        self._fill()
        try:
            async with asyncio.timeout(self.room.timeout_s if urgent else None):
                outcomes = [await job.outcome for job in jobs]
        except TimeoutError:
            raise NoVector("timeout", f"after {self.room.timeout_s:g} s") from None
        finally:
            for job in jobs:  # nobody waits for those that are left: they are not begun
                job.outcome.cancel()
        return [_vector(outcome) for outcome in outcomes]

    async def aclose(self) -> None:
        self._closed = True
        running = dict(self._running)
        for job in (*chain(*running.values()), *self._urgent, *self._later):
            _settle(job, NoVector("failed", "closed"))
        self._urgent.clear()
        self._later.clear()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _fill(self) -> None:
        while len(self._running) < self.room.lanes and (batch := self._take()):
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running[task] = batch
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not self._closed:
            self._fill()

    def _take(self) -> list[_Job]:
        """The one that has waited longest, and what waits with it and is about as long."""
        for queue in (self._urgent, self._later):
            waiting = [job for job in queue if not job.outcome.done()]
            batch: list[_Job] = []
            rest: list[_Job] = []
            chars = 0
            for job in waiting:
                chars += len(job.text)
                fits = not batch or (
                    len(batch) < self.room.texts and chars <= self.room.chars and _similar(batch[0].text, job.text)
                )
                (batch if fits else rest).append(job)
            queue[:] = rest
            if batch:
                return batch
        return []

    async def _run(self, batch: list[_Job]) -> None:
        outcomes: Sequence[Outcome]
        try:
            outcomes = await self.work([job.text for job in batch])
        except NoVector as error:
            outcomes = [error] * len(batch)
        except Exception as error:
            outcomes = [NoVector("failed", str(error) or type(error).__name__)] * len(batch)
        self._tell(outcomes)
        for job, outcome in zip(batch, outcomes, strict=True):
            _settle(job, outcome)

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        """Once when it begins to fail, once when it does no more."""
        problems = [one for one in outcomes if isinstance(one, NoVector) and one.reason != "long"]
        problem = problems[0] if len(problems) == len(outcomes) else None
        if problem is not None and not self._failing:
            logger.warning("questions get no vectors from %s, so that similar ones are misses: %s", self.name, problem)
        elif problem is None and self._failing:
            logger.warning("questions get vectors from %s again", self.name)
        self._failing = problem is not None


def outcome_of(vector: Vector) -> Outcome:
    """At unit length; one that has no direction is its own text's misfortune alone."""
    try:
        return unit(vector)
    except NoVector as error:
        return error


def _similar(first: str, other: str) -> bool:
    short, long = sorted((len(first), len(other)))
    return long <= _SIMILAR * short + 16


def _settle(job: _Job, outcome: Outcome) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):
        job.outcome.set_result(outcome)


def _vector(outcome: Outcome) -> Vector:
    if isinstance(outcome, NoVector):
        # A copy: it may go to several callers, and each adds its own traceback.
        raise NoVector(outcome.reason, str(outcome).partition(": ")[2])
    return outcome
