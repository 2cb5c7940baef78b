"""Worker processes as the supervisor gets them from the nursery: started, waited for, killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from gateway.process.nursery import BORN, ENDED, REPORT, REQUEST

logger = logging.getLogger(__name__)

MODULE = "gateway.process.nursery"
_END_WAIT_S = 5.0
_LOOK_S = 0.5


class Process(Protocol):
    """As far as `asyncio.subprocess.Process` is needed here."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    async def wait(self) -> int: ...

    def kill(self) -> None:
        """Raises ProcessLookupError: it has ended."""
        ...


Start = Callable[[Sequence[int]], Awaitable[Process]]
"""Starts a process that gets these descriptors, or raises OSError."""


def program(module: str) -> Start:
    """A process that loads a module of its own, which gets the descriptors as arguments."""

    async def start(fds: Sequence[int]) -> Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", module, *map(str, fds)),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=fds,
            # More arenas only fragment what one thread uses (A13).
            env={"MALLOC_ARENA_MAX": "1", **os.environ},
        )

    return start


class Fork:
    """One process of the nursery's, as `asyncio.subprocess.Process` would be."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()
        self._handle = _handle_of(pid)
        """The process itself: its number may belong to another one as soon as it is reaped. None: the system has no
        such thing."""

    def __repr__(self) -> str:
        return f"<Fork {self.pid} {'runs' if self.returncode is None else f'ended with {self.returncode}'}>"

    async def wait(self) -> int:
        await self._ended.wait()
        return self.returncode or 0

    def kill(self) -> None:
        """Raises ProcessLookupError: it has ended."""
        if self._ended.is_set():
            raise ProcessLookupError(self.pid)
        if self._handle is not None:
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        else:
            os.kill(self.pid, signal.SIGKILL)

    def end(self, returncode: int) -> None:
        """Idempotent."""
        if not self._ended.is_set():
            self.returncode = returncode
            self._ended.set()
            if self._handle is not None:
                asyncio.get_running_loop().remove_reader(self._handle)
                os.close(self._handle)

    def watch_alone(self) -> None:
        """Nobody will tell of its end, nor what its exit status was."""
        loop = asyncio.get_running_loop()
        if self._ended.is_set():
            return
        if self._handle is not None:
            loop.add_reader(self._handle, self.end, 0)
        elif _runs(self.pid):
            loop.call_later(_LOOK_S, self.watch_alone)
        else:
            self.end(0)


def _handle_of(pid: int) -> int | None:
    """Raises ProcessLookupError: it has ended, and was reaped."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None  # old kernels and some sandboxes


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


class Nursery:
    """The process that workers are forked from. It is started when it is first needed, and again should it end."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._left: list[Process] = []
        """Those that have ended, or are about to."""
        self._end: socket.socket | None = None
        self._forks: dict[int, Fork] = {}
        self._asked: dict[int, asyncio.Future[Fork]] = {}
        self._ids = itertools.count(1)
        self._starting = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Nursery {list(self._forks.values())}>"

    async def start(self, fds: Sequence[int]) -> Fork:
        """Start a worker, with these descriptors.

        Raises:
            OSError: the system cannot start another process.
        """
        async with self._starting:
            if self._end is None:
                await self._open()
        assert self._end is not None
        number = next(self._ids)
        answer: asyncio.Future[Fork] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            socket.send_fds(self._end, [REQUEST.pack(number)], list(fds))
            return await answer
        finally:
            self._asked.pop(number, None)

    async def aclose(self) -> None:
        """End it; workers that still run are not touched. Idempotent."""
        self._lose()
        while self._left:
            process = self._left.pop()
            try:
                await asyncio.wait_for(process.wait(), _END_WAIT_S)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def _open(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = await program(MODULE)((theirs.fileno(),))
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        self._end = ours
        asyncio.get_running_loop().add_reader(ours, self._take)

    def _take(self) -> None:
        assert self._end is not None
        try:
            report = self._end.recv(REPORT.size)
        except BlockingIOError:
            return
        except OSError:
            report = b""
        if not report:
            logger.warning("the process that workers are forked from has ended; the next one needed starts another")
            self._lose()
            return
        what, first, second = REPORT.unpack(report)
        if what == BORN:
            self._born(first, second)
        elif what == ENDED:
            fork = self._forks.pop(first, None)
            if fork is not None:
                fork.end(second)
        else:
            self._answer(first, OSError(second, os.strerror(second)))

    def _born(self, number: int, pid: int) -> None:
        try:
            fork = Fork(pid)
        except OSError as error:  # it has ended and was reaped already
            self._answer(number, error)
            return
        self._forks[pid] = fork
        answer = self._asked.get(number)
        if answer is not None and not answer.done():
            answer.set_result(fork)
        else:
            fork.kill()  # nobody waits for it any more

    def _answer(self, number: int, error: OSError) -> None:
        answer = self._asked.get(number)
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def _lose(self) -> None:
        if self._end is not None:
            asyncio.get_running_loop().remove_reader(self._end)
            self._end.close()
        if self._process is not None:
            self._left.append(self._process)
        self._end = self._process = None
        for number in list(self._asked):
            self._answer(number, ConnectionResetError("the process that workers are forked from has ended"))
        for fork in self._forks.values():
            with contextlib.suppress(ValueError):
                fork.watch_alone()
        self._forks.clear()
