"""The office as the supervisor sees it: one process beside the workers, where the configuration has a database."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from gateway.config import Config
from gateway.config.live import Answer
from gateway.config.live import Question as Inquiry
from gateway.process.banner import Console, shown_url
from gateway.process.control import Configure, Drain, Informed, Inquire, Reopen, Versioned, pack_config
from gateway.process.forks import program
from gateway.process.listener import bind
from gateway.process.own_sockets import place_for, remove
from gateway.process.workers import BACKOFF, OVERTIME_S, Numbering, Question, Worker

logger = logging.getLogger(__name__)

MODULE = "gateway.office.process"
DRAIN_S = 5.0
"""How long answers of the admin API may take once the office is told to end."""
_NOT_CONCERNED = frozenset({"pools", "deployments", "cache", "routing", "residency"})
"""Sections that the office does not read."""


_questions: msgspec.json.Decoder[Inquiry] = msgspec.json.Decoder(Inquiry)


class Office:
    """Keeps one office running, for the configuration that `use` names.

    folder: of the gateway's state.
    answer: what the office asks of the configuration.
    """

    def __init__(
        self, folder: Path, console: Console, numbering: Numbering, answer: Callable[[Inquiry], Awaitable[Answer]]
    ) -> None:
        self._folder = folder / "office"
        self._console = console
        self._numbering = numbering
        self._answer = answer
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret
        self._feed: socket.socket | None = None
        self._feed_path = Path()
        self._shift: _Shift | None = None
        self._before: _Shift | None = None
        self._version = ""
        self._leaving: dict[asyncio.Task[None], _Shift] = {}
        self._answering: set[asyncio.Task[None]] = set()

    def feed_for(self, config: Config) -> str:
        """Path of the socket at which workers of `config` hear of the directory; empty: there is nothing to hear."""
        return str(self._feed_path) if config.database is not None else ""

    def use(self, config: Config, version: str) -> None:
        """Have the office run for `config`, or end it if that has no database. Returns at once.

        What ran so far goes on until `settle`: new workers learn the directory from it, and it may be the one that is
        asked for the change. `back` is for a change that did not come about.

        Raises:
            CannotListen: the address of the admin API cannot be bound; what ran goes on.
            OSError: the socket of the feed cannot be made.
        """
        old = self._before = self._shift
        self._version = version
        if config.database is None:
            self._shift = None
        elif old is None or old.concern != _concern(config):
            self._shift = self._begin(config, version, old)

    def settle(self) -> None:
        """The change came about: end what ran before it."""
        old, self._before = self._before, None
        if old is not None and old is not self._shift:
            self._retire(old)
        elif old is not None:
            old.call(self._version)

    def back(self) -> None:
        """The change did not come about: what ran before it stays."""
        new, self._shift, self._before = self._shift, self._before, None
        if new is not None and new is not self._shift:
            self._retire(new)

    def reopen_logs(self) -> None:
        if self._shift is not None and self._shift.worker is not None:
            self._shift.worker.send(Reopen())

    async def end(self) -> None:
        """Returns when every process has ended."""
        if self._shift is not None:
            self._retire(self._shift)
            self._shift = None
        if self._leaving:
            await asyncio.wait(self._leaving)
        if self._feed is not None:
            self._feed.close()
            remove(self._feed_path, self._folder)

    def kill(self) -> None:
        """SIGKILL now."""
        for shift in (self._shift, self._before, *self._leaving.values()):
            if shift is not None:
                shift.kill()

    def _begin(self, config: Config, version: str, old: _Shift | None) -> _Shift:
        if self._feed is None:
            self._feed, self._feed_path = _feed_socket(self._folder)
        admin = config.admin
        same = old is not None and (old.config.admin.host, old.config.admin.port) == (admin.host, admin.port)
        listener = old.listener.dup() if old is not None and same else bind(admin.host, admin.port, "admin")
        if not same:
            url = shown_url(admin.host, listener.getsockname()[1], tls=config.server.tls is not None)
            self._console.tell(f"admin API on {url}")
        told = Configure(0, 0, pack_config(config), self._console.how, version=version)
        return _Shift(config, told, listener, self._feed, self, old)

    def _retire(self, old: _Shift) -> None:
        task = asyncio.create_task(old.end())
        self._leaving[task] = old
        task.add_done_callback(self._leaving.pop)

    # For a shift

    async def spawn(self, told: Configure, fds: tuple[int, int]) -> Worker:
        worker = await Worker.spawn(told, fds, self._question, program(MODULE))
        self._numbering.include(worker)
        return worker

    def gone(self, worker: Worker, failures: int) -> float:
        """It ended, and not because it was told to. Returns how long to wait before the next one."""
        self._numbering.retire(worker)
        pause_s = BACKOFF.pause_s(failures, self._rng)
        text = f"the office (process {worker.pid}) ended: {worker.why()}; workers go on with what they know"
        if failures >= BACKOFF.crash_loop_after:
            self._console.fail(f"{text}; it is in a crash loop, the next start is in {pause_s:.1f} s")
        else:
            self._console.warn(f"{text}; a new one starts in {pause_s:.1f} s")
        return pause_s

    def left(self, worker: Worker) -> None:
        """It ended as it was told to."""
        self._numbering.retire(worker)

    def _question(self, worker: Worker, question: Question) -> None:
        if isinstance(question, Inquire):
            task = asyncio.create_task(self._inform(worker, question))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        else:
            self._numbering.answer(worker, question)

    async def _inform(self, worker: Worker, inquiry: Inquire) -> None:
        question = _questions.decode(inquiry.question)
        worker.send(Informed(inquiry.id, msgspec.json.encode(await self._answer(question))))


class _Shift:
    """The office of one configuration: a process, and the next one whenever it ends.

    after: whose process must have ended before the first one begins.
    """

    def __init__(
        self,
        config: Config,
        told: Configure,
        listener: socket.socket,
        feed: socket.socket,
        office: Office,
        after: _Shift | None,
    ) -> None:
        self.config = config
        self.concern = _concern(config)
        self.listener = listener
        self.worker: Worker | None = None
        self._told = told
        self._fds = (listener.fileno(), feed.fileno())
        self._office = office
        self._ending = asyncio.Event()
        self._killed = False
        self._keeping: asyncio.Task[None] = asyncio.create_task(
            self._keep(after._keeping if after is not None else None)
        )

    def call(self, version: str) -> None:
        """Have it say that this version of the configuration serves, also when it is started again."""
        self._told = msgspec.structs.replace(self._told, version=version)
        if self.worker is not None:
            self.worker.send(Versioned(version))

    async def end(self) -> None:
        """Have it finish what it does, and end."""
        self._ending.set()
        if self.worker is not None:
            self.worker.send(Drain(DRAIN_S, 0.0))
        done, _ = await asyncio.wait((self._keeping,), timeout=DRAIN_S + OVERTIME_S)
        if not done:
            self.kill()
            await asyncio.wait((self._keeping,))
        self.listener.close()

    def kill(self) -> None:
        self._ending.set()
        self._killed = True
        if self.worker is not None:
            self.worker.kill()

    async def _keep(self, after: asyncio.Task[None] | None) -> None:
        if after is not None:
            ending = asyncio.create_task(self._ending.wait())
            await asyncio.wait((after, ending), return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
        failures = 0
        while not self._ending.is_set():
            began_s = time.monotonic()
            try:
                self.worker = worker = await self._office.spawn(self._told, self._fds)
            except OSError as error:
                logger.error("the system cannot start the office: %s", error)
                await self._pause(BACKOFF.max_s)
                continue
            if self._ending.is_set():
                self._send_off(worker)
            await worker.ended.wait()
            if self._ending.is_set():
                self._office.left(worker)
                return
            failures = 1 if time.monotonic() - began_s >= BACKOFF.healthy_s else failures + 1
            await self._pause(self._office.gone(worker, failures))

    def _send_off(self, worker: Worker) -> None:
        """It was just being started when it was to end."""
        if self._killed:
            worker.kill()
        else:
            worker.send(Drain(DRAIN_S, 0.0))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)


def _concern(config: Config) -> Config:
    """What of a configuration the office goes by."""
    return config.model_copy(update={name: getattr(Config(), name) for name in _NOT_CONCERNED})


def _feed_socket(folder: Path) -> tuple[socket.socket, Path]:
    """A listening socket that only this user may connect to, and its path."""
    path = place_for(folder, "feed")
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(256)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener, path
