"""One gateway worker, forked by the nursery and told by the supervisor what to do."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import resource
import signal
import socket
from collections.abc import Sequence
from typing import Literal, TypeVar, cast

import uvloop

from gateway.app import Gateway
from gateway.config import Config
from gateway.config.secrets import secrets_of
from gateway.pool_report import PoolList, merge_reports
from gateway.process.board import Board, Turn
from gateway.process.control import (
    Ask,
    Channel,
    Configure,
    Drain,
    EnginesReady,
    Exposed,
    Gather,
    Gathered,
    Message,
    Numbers,
    Refused,
    Reopen,
    Round,
    RoundAnswered,
    Scrape,
    Started,
    unpack_config,
)
from gateway.telemetry import Exposition, Redactor
from gateway.telemetry.logs import set_up

logger = logging.getLogger(__name__)

T = TypeVar("T")

PUSH_S = 1.0
GRACE_S = 1.0
"""How long a draining worker still accepts, and how long idle connections get for one more request."""
OVERTIME_S = 5.0
"""An orphan that has not ended this long after its drain limit is ended by the system."""
SETTLE_S = 0.05
"""For what was cut off to be counted."""
SCRAPE_S = 2.0
_MAX_FILES = 1 << 20
_GC_THRESHOLDS = (50_000, 20, 50)


class SupervisorGone(Exception):
    """The channel ended before the worker had started."""


class Worker:
    """Runs a `Gateway` as the channel says."""

    def __init__(self, listener: socket.socket, end: socket.socket, board_fd: int) -> None:
        self._listener = listener
        self._end = end
        self._board_fd = board_fd
        self._channel = cast(Channel, None)
        self._gateway: Gateway | None = None
        self._config = Config()
        self._configured: asyncio.Future[Configure] = asyncio.get_running_loop().create_future()
        self._drain: asyncio.Future[Drain] = asyncio.get_running_loop().create_future()
        self._scrapes: dict[int, asyncio.Future[Exposition]] = {}
        self._gathering: dict[int, asyncio.Future[PoolList]] = {}
        self._rounds: dict[int, asyncio.Future[list[bytes]]] = {}
        self._ids = itertools.count(1)

    async def run(self) -> int:
        """Serve until told to drain. Returns the exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._told_to_end)
        self._channel = await Channel.open(self._end, self._take, self._orphaned)
        try:
            await self._start(await self._configured)
        except SupervisorGone:
            return 1
        except Exception as error:
            if not isinstance(error, OSError | ValueError):
                logger.exception("the worker cannot start")
            self._channel.send(Refused(f"{type(error).__name__}: {error}"))
            await self._channel.close()
            return 1
        pushing = loop.create_task(self._push())
        await self._finish(await self._drain, pushing)
        await self._channel.close()
        return 0

    async def _start(self, told: Configure) -> None:
        self._config = unpack_config(told.config)
        redactor = Redactor(secrets_of(self._config))
        set_up(cast(Literal["json", "pretty"], told.log_format), redactor=redactor, worker_id=told.worker_id)
        self._gateway = Gateway(
            self._config,
            worker_id=told.worker_id,
            metrics=self._all_metrics,
            pools=self._all_pools,
            spread=self._pass_round,
            version=told.version,
            applied_at=told.applied_at,
            feed=told.feed,
        )
        self._gateway.engines_ready = told.engines_ready
        turn = Turn(Board(self._board_fd, told.workers), told.worker_id) if told.workers > 1 else None
        await self._gateway.start(self._listener, turn)
        # What is here now stays: the collector need not look at it again, nor after every few hundred objects.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        self._channel.send(Started())

    async def _finish(self, drain: Drain, pushing: asyncio.Task[None]) -> None:
        gateway = self._gateway
        assert gateway is not None
        await gateway.drain(drain.limit_s, drain.grace_s, replaced=drain.replaced)
        if gateway.server.open:
            logger.warning(
                "%d answers did not finish within %g s (server.drain_s) and are cut off",
                len(gateway.server.open),
                drain.limit_s,
            )
        await gateway.cut_off()
        await asyncio.sleep(SETTLE_S)
        pushing.cancel()
        self._gateway = None  # these are the last numbers
        self._channel.send(Numbers(0, gateway.telemetry.snapshot()))
        await gateway.aclose()

    async def _push(self) -> None:
        """The numbers that count if this process is killed are those of at most a second ago."""
        while True:
            if self._gateway is not None and not self._channel.congested:
                self._channel.send(Numbers(0, self._gateway.telemetry.snapshot()))
            await asyncio.sleep(PUSH_S)

    async def _all_metrics(self, accept: str) -> Exposition:
        scrape_id = next(self._ids)
        answer: asyncio.Future[Exposition] = asyncio.get_running_loop().create_future()
        self._scrapes[scrape_id] = answer
        try:
            self._channel.send(Scrape(scrape_id, accept))
            async with asyncio.timeout(SCRAPE_S):
                return await answer
        finally:
            del self._scrapes[scrape_id]

    async def _all_pools(self) -> PoolList:
        gather_id = next(self._ids)
        answer: asyncio.Future[PoolList] = asyncio.get_running_loop().create_future()
        self._gathering[gather_id] = answer
        try:
            self._channel.send(Gather(gather_id))
            async with asyncio.timeout(SCRAPE_S):
                return await answer
        finally:
            del self._gathering[gather_id]

    async def _pass_round(self, message: bytes) -> list[bytes]:
        """Have all workers' response caches told; what those say that answer in time."""
        round_id = next(self._ids)
        answer: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self._rounds[round_id] = answer
        try:
            self._channel.send(Round(round_id, message))
            async with asyncio.timeout(SCRAPE_S):
                return await answer
        finally:
            del self._rounds[round_id]

    def _tell(self, ask: Ask, gateway: Gateway) -> None:
        pools = gateway.pool_report().model_dump_json().encode() if ask.pools else b""
        self._channel.send(Numbers(ask.id, gateway.telemetry.snapshot(), pools))

    def _take(self, message: Message) -> None:
        match message:
            case Ask() if self._gateway is not None:
                self._tell(message, self._gateway)
            case Exposed(id=scrape_id, body=body, content_type=content_type):
                _answer(self._scrapes, scrape_id, Exposition(body, content_type))
            case Gathered(id=gather_id, reports=reports):
                _answer(self._gathering, gather_id, merge_reports(map(PoolList.model_validate_json, reports)))
            case Round(id=round_id, message=told):
                self._channel.send(RoundAnswered(round_id, [self._take_round(told)]))
            case RoundAnswered(id=round_id, answers=answers):
                _answer(self._rounds, round_id, answers)
            case Reopen() if self._gateway is not None:
                self._gateway.telemetry.reopen()
            case EnginesReady() if self._gateway is not None:
                self._gateway.engines_ready = True
            case Drain():
                self._begin_drain(message)
            case Configure():
                self._configured.set_result(message)
            case _:
                pass

    def _take_round(self, message: bytes) -> bytes:
        desk = self._gateway.desk if self._gateway is not None else None
        return b"" if desk is None else desk.take(message)

    def _begin_drain(self, drain: Drain) -> None:
        if not self._drain.done():
            self._drain.set_result(drain)

    def _told_to_end(self) -> None:
        self._begin_drain(Drain(self._config.server.drain_s, GRACE_S))

    def _orphaned(self) -> None:
        """The supervisor is gone: whoever starts it anew needs the port, so that nothing more is accepted here."""
        if not self._configured.done():
            self._configured.set_exception(SupervisorGone())
        if self._gateway is not None:
            self._gateway.stop_accepting()
        self._told_to_end()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, self._config.server.drain_s + OVERTIME_S)


def _answer(waiting: dict[int, asyncio.Future[T]], question_id: int, answer: T) -> None:
    """Give it to whoever asked, if somebody still waits."""
    asked = waiting.get(question_id)
    if asked is not None and not asked.done():
        asked.set_result(answer)


def _raise_file_limit() -> None:
    """Two descriptors a stream: the usual soft limit of 1024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def _run(channel_fd: int, listener_fd: int, board_fd: int) -> int:
    return await Worker(socket.socket(fileno=listener_fd), socket.socket(fileno=channel_fd), board_fd).run()


def serve(fds: Sequence[int]) -> int:
    """Be a worker until told to end. Returns the exit status.

    fds: of the channel to the supervisor, of the listening socket, and of the board.
    """
    # Ctrl-C in a terminal reaches the whole group; the supervisor says what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(*fds))
