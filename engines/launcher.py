"""Starts, watches and stops engine processes: the `Launcher` seam, and `ProcessLauncher` for this machine."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .child import Child
from .exit_reason import ExitReason, explain_exit
from .memory import resident_bytes

logger = logging.getLogger(__name__)

_READY_POLL_S = 0.05
_READY_POLL_MAX_S = 1.0
_PROBE_TIMEOUT_S = 5.0
_MEMORY_EVERY_S = 5.0


class State(enum.StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing_off"
    """It ended; it is started again after a pause."""
    FAILED = "failed"
    """It ended in a way that starting it again cannot mend."""
    STOPPING = "stopping"


MOVES: Mapping[State, frozenset[State]] = {
    State.STOPPED: frozenset({State.STARTING}),
    State.STARTING: frozenset({State.READY, State.BACKING_OFF, State.FAILED, State.STOPPING}),
    State.READY: frozenset({State.BACKING_OFF, State.FAILED, State.STOPPING}),
    State.BACKING_OFF: frozenset({State.STARTING, State.STOPPING}),
    State.FAILED: frozenset({State.STARTING, State.STOPPING}),
    State.STOPPING: frozenset({State.STOPPED}),
}
"""Every legal move; anything else is a fault of the launcher."""


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """A command that serves HTTP once it is ready.

    env: added to this process's environment.
    ready_url: answers GET with a 2xx once the engine serves; None: ready as soon as it runs.
    ready_timeout_s: an engine that is not ready by then is stopped, and started again after a pause.
    stop_timeout_s: from SIGTERM to SIGKILL.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ready_url: str | None = None
    ready_timeout_s: float = 600.0
    stop_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Change:
    """One move of one engine, for logs and metrics.

    reason: a sentence when something went wrong, else empty.
    failures: how often in a row it ended without having been healthy for `Backoff.healthy_s`.
    retry_in_s: the pause before the next start, when `new` is BACKING_OFF.
    crash_loop: `failures` reached `Backoff.crash_loop_after`.
    """

    name: str
    old: State
    new: State
    reason: str = ""
    pid: int | None = None
    failures: int = 0
    retry_in_s: float | None = None
    crash_loop: bool = False


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between starts: from `first_s` doubling to `max_s`, forgotten after `healthy_s` of being ready."""

    first_s: float = 0.5
    max_s: float = 30.0
    healthy_s: float = 60.0
    crash_loop_after: int = 5

    def pause_s(self, failures: int, rng: random.Random) -> float:
        """Between half of the pause and all of it: engines that died together must not load together."""
        full_s = min(self.max_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return full_s * rng.uniform(0.5, 1.0)


class Clock(Protocol):
    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class RealClock:
    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class LaunchError(Exception):
    """The engine cannot be started, or was stopped while somebody waited for it."""


class Launcher(Protocol):
    """Keeps one engine running from `start` to `stop`, wherever it runs."""

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> State: ...

    def start(self) -> None:
        """Begin. Returns at once; the engine is started again whenever it ends."""
        ...

    async def wait_ready(self) -> None:
        """Return when the engine serves.

        Raises:
            LaunchError: it cannot be started, or `stop` was called.
        """
        ...

    async def stop(self) -> None:
        """End the engine, with all that it started. Idempotent; a cancelled caller does not interrupt it."""
        ...


class ProcessLauncher:
    """A `Launcher` for one process on this machine. Callbacks run in the event loop and must not block."""

    def __init__(
        self,
        spec: LaunchSpec,
        *,
        on_change: Callable[[Change], None] = lambda change: None,
        on_line: Callable[[str, str], None] = lambda name, line: None,
        clock: Clock | None = None,
        backoff: Backoff | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """`on_line` gets the spec's name and each line that the process writes, of both its streams."""
        self.spec = spec
        self._on_change = on_change
        self._on_line = on_line
        self._clock = clock or RealClock()
        self._backoff = backoff or Backoff()
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._state = State.STOPPED
        self._failures = 0
        self._reason = ""
        self._peak_bytes = 0
        self._child: Child | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop_task: asyncio.Task[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<ProcessLauncher {self.name} {self._state} pid={self.pid} failures={self._failures}>"

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def state(self) -> State:
        return self._state

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child and not self._child.exited.is_set() else None

    @property
    def lines(self) -> Sequence[str]:
        """The last lines of the latest process, oldest first."""
        return tuple(self._child.lines) if self._child else ()

    @property
    def peak_bytes(self) -> int:
        """The most resident memory that the latest process and its helpers were seen to hold; 0 right after a start."""
        return self._peak_bytes

    def start(self) -> None:
        if self._state not in (State.STOPPED, State.FAILED):
            return
        self._failures = 0
        self._stop_task = None
        self._move(State.STARTING)
        self._task = asyncio.get_running_loop().create_task(self._supervise(), name=f"launch {self.name}")
        self._task.add_done_callback(self._supervised)

    async def wait_ready(self) -> None:
        while self._state is not State.READY:
            if self._state in (State.FAILED, State.STOPPING, State.STOPPED):
                raise LaunchError(f"{self.name}: {self._reason or self._state.value}")
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def stop(self) -> None:
        if self._state is State.STOPPED:
            return
        if self._stop_task is None:
            self._move(State.STOPPING)
            self._stop_task = asyncio.get_running_loop().create_task(self._shut_down())
        await asyncio.shield(self._stop_task)

    def kill(self) -> None:
        """SIGKILL now, for an operator who will not wait for `stop_timeout_s`."""
        if self._child is not None and not self._child.exited.is_set():
            self._child.signal_group(signal.SIGKILL)

    async def _shut_down(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        reason = ""
        if self._child is not None and not await self._child.terminate(self.spec.stop_timeout_s):
            reason = f"did not stop within {self.spec.stop_timeout_s:g} s of SIGTERM and was killed"
        self._move(State.STOPPED, reason)

    async def _supervise(self) -> None:
        while True:
            healthy_from_s, reason = await self._run_once()
            now_s = self._clock.monotonic()
            if healthy_from_s is not None and now_s - healthy_from_s >= self._backoff.healthy_s:
                self._failures = 0
            self._failures += 1
            if reason.permanent:
                self._move(State.FAILED, reason.sentence)
                return
            pause_s = self._backoff.pause_s(self._failures, self._rng)
            self._move(State.BACKING_OFF, reason.sentence, retry_in_s=pause_s)
            await self._clock.sleep(pause_s)
            self._move(State.STARTING)

    def _supervised(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s: the launcher itself failed", self.name, exc_info=error)
            if State.FAILED in MOVES[self._state]:
                self._move(State.FAILED, f"the launcher itself failed: {error!r}")

    async def _run_once(self) -> tuple[float | None, ExitReason]:
        """Run the process to its end. Returns the instant it became ready, if it did, and why it ended."""
        try:
            child = await self._spawn()
        except OSError as error:
            return None, ExitReason(f"the system cannot start another process: {error}")
        watching = asyncio.create_task(self._watch_memory(child))
        try:
            trouble = await self._until_ready(child)
            if trouble is not None:
                await child.terminate(self.spec.stop_timeout_s)
                return None, ExitReason(trouble)
            healthy_from_s = None
            if not child.exited.is_set():
                healthy_from_s = self._clock.monotonic()
                self._move(State.READY)
                await child.exited.wait()
        finally:
            watching.cancel()
        return healthy_from_s, explain_exit(child.returncode or 0, tuple(child.lines), self._peak_bytes)

    async def _watch_memory(self, child: Child) -> None:
        self._peak_bytes = 0
        while True:
            held_bytes = await asyncio.to_thread(resident_bytes, child.pid)
            self._peak_bytes = max(self._peak_bytes, held_bytes)
            await asyncio.sleep(_MEMORY_EVERY_S)

    async def _spawn(self) -> Child:
        """Cancelling this leaves the process in `_child`, where `stop` finds it."""
        spawning = asyncio.create_task(Child.spawn(self.spec.argv, self.spec.env, self._take_line))
        try:
            self._child = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            self._child = await spawning
            raise
        return self._child

    async def _until_ready(self, child: Child) -> str | None:
        """Return None when the engine serves or has ended, else what is wrong."""
        ended = asyncio.create_task(child.exited.wait())
        probing = asyncio.create_task(_answers(self.spec.ready_url))
        try:
            done, _ = await asyncio.wait(
                (ended, probing), timeout=self.spec.ready_timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            ended.cancel()
            probing.cancel()
            await asyncio.wait((ended, probing))
        if probing in done:
            probing.result()
        if done:
            return None
        return f"not ready after {self.spec.ready_timeout_s:g} s (ready_timeout_s): no 2xx from {self.spec.ready_url}"

    def _take_line(self, line: str) -> None:
        self._on_line(self.name, line)

    def _move(self, new: State, reason: str = "", *, retry_in_s: float | None = None) -> None:
        old = self._state
        if new not in MOVES[old]:
            raise RuntimeError(f"{self.name}: illegal move from {old} to {new}")
        self._state, self._reason = new, reason
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._on_change(
            Change(
                self.name,
                old,
                new,
                reason,
                self.pid,
                self._failures,
                retry_in_s,
                crash_loop=self._failures >= self._backoff.crash_loop_after,
            )
        )


async def _answers(url: str | None) -> None:
    """Return when `url` answers with a 2xx."""
    if url is None:
        return
    import httpx  # several megabytes, of use only to who runs engines

    pause_s = _READY_POLL_S
    async with httpx.AsyncClient(trust_env=False, timeout=_PROBE_TIMEOUT_S) as client:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(url)).is_success:
                    return
            await asyncio.sleep(pause_s)
            pause_s = min(_READY_POLL_MAX_S, pause_s * 1.3)
