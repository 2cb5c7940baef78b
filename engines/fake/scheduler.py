"""Which requests run: slots, KV memory, the queue, and the gate that tests hold requests at."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from engines.fake.options import FakeOptions


class JobState(enum.Enum):
    """NEW → WAITING → HELD → RUNNING → DONE; steps may be left out, none goes back."""

    NEW = enum.auto()
    WAITING = enum.auto()
    HELD = enum.auto()
    RUNNING = enum.auto()
    DONE = enum.auto()


class Job(Protocol):
    state: JobState
    kv_tokens: int
    """What it may take of the KV cache."""

    def begin(self) -> None:
        """It has a slot and is past the gate."""
        ...


@dataclass(slots=True)
class _Gate:
    closed: bool = False
    passes: int = 0
    """How many may still pass while it is closed."""

    def admits(self) -> bool:
        if not self.closed:
            return True
        if not self.passes:
            return False
        self.passes -= 1
        return True


class Scheduler:
    """First come, first served. A job at the gate has its slot, so that a held engine fills up as a slow one does."""

    def __init__(self, options: FakeOptions) -> None:
        self.options = options
        self.running = 0
        self.kv_tokens = 0
        self._gate = _Gate()
        self._waiting: dict[Job, None] = {}
        self._held: dict[Job, None] = {}
        self._admitting = False

    def __repr__(self) -> str:
        gate = "closed" if self._gate.closed else "open"
        return f"<Scheduler running={self.running} waiting={self.waiting} held={self.held} gate={gate}>"

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache that running jobs take, 0 to 1."""
        return min(1.0, self.kv_tokens / self.options.kv_tokens)

    def submit(self, job: Job) -> bool:
        """Run the job when its turn comes. False: the queue is full."""
        limit = self.options.max_queue
        must_wait = bool(self._waiting) or not self._fits(job)
        if must_wait and limit is not None and len(self._waiting) >= limit:
            return False
        job.state = JobState.WAITING
        self._waiting[job] = None
        self._admit()
        return True

    def leave(self, job: Job) -> None:
        """The job is over, or its client has gone. Idempotent."""
        state, job.state = job.state, JobState.DONE
        self._waiting.pop(job, None)
        self._held.pop(job, None)
        if state in (JobState.HELD, JobState.RUNNING):
            self.running -= 1
            self.kv_tokens -= job.kv_tokens
        self._admit()

    def hold(self) -> None:
        """Close the gate."""
        self._gate = _Gate(closed=True)

    def release(self, count: int | None = None) -> None:
        """Let `count` jobs through, now or as they come, and keep the gate closed; None: open it."""
        if count is None:
            self._gate = _Gate()
        else:
            self._gate.passes += count
        while self._held and self._gate.admits():
            job = next(iter(self._held))
            del self._held[job]
            self._begin(job)

    def refit(self, options: FakeOptions) -> None:
        """Work under other limits from now on."""
        self.options = options
        self._admit()

    def _fits(self, job: Job) -> bool:
        free_kv = self.options.kv_tokens - self.kv_tokens
        return self.running < self.options.slots and (job.kv_tokens <= free_kv or not self.running)

    def _admit(self) -> None:
        if self._admitting:
            return  # the loop below, further up the stack, goes on with what has changed
        self._admitting = True
        try:
            while self._waiting:
                job = next(iter(self._waiting))
                if not self._fits(job):
                    return
                del self._waiting[job]
                self._enter(job)
        finally:
            self._admitting = False

    def _enter(self, job: Job) -> None:
        self.running += 1
        self.kv_tokens += job.kv_tokens
        if self._gate.admits():
            self._begin(job)
        else:
            job.state = JobState.HELD
            self._held[job] = None

    def _begin(self, job: Job) -> None:
        job.state = JobState.RUNNING
        job.begin()
