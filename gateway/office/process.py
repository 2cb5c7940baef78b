"""The office: `python -m gateway.office.process CHANNEL_FD ADMIN_FD FEED_FD`, run by the supervisor."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import signal
import socket
import sys
from collections.abc import Coroutine, Iterable
from typing import Any, Literal, cast

import msgspec

from gateway.clock import RealClock
from gateway.config import Config
from gateway.config.live import Answer, Question
from gateway.config.models import Tracing
from gateway.config.secrets import secrets_of
from gateway.directory.frames import snapshot_file
from gateway.directory.ring import Ring
from gateway.http.tls import server_tls
from gateway.identity import KeyRing
from gateway.jwt import tokens_of
from gateway.office.api.server import AdminServer
from gateway.office.api.state import OfficeState
from gateway.office.desk import Desk, Opener
from gateway.office.feed import Feed
from gateway.office.keepsake import Keepsake
from gateway.office.published import follow_configs
from gateway.office.source import DirectorySource
from gateway.pool_report import PoolList, merge_reports
from gateway.process.control import (
    Ask,
    Channel,
    Configure,
    Drain,
    Gather,
    Gathered,
    Informed,
    Inquire,
    Message,
    Numbers,
    Refused,
    Reopen,
    Started,
    Versioned,
    unpack_config,
)
from gateway.process.machine import state_folder
from gateway.telemetry import Redactor, Telemetry, series
from gateway.telemetry.logs import set_up
from gateway.telemetry.metrics import Bound, Registry
from gateway.usage.intake import run_intake
from gateway.usage.spool import folder_of

logger = logging.getLogger(__name__)

ANSWER_S = 2.0
"""The supervisor asks the workers, and they have a moment each."""
CONFIG_S = 120.0
"""For a configuration to be put in place: engines may have to be started."""

_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
Labels = tuple[str, ...]


class Office:
    """Runs until the channel says otherwise."""

    def __init__(self, end: socket.socket, admin: socket.socket, feed: socket.socket) -> None:
        self._end = end
        self._admin = admin
        self._feed_socket = feed
        self._channel = cast(Channel, None)
        self._telemetry: Telemetry | None = None
        self._registry: Registry | None = None
        self._server: AdminServer | None = None
        loop = asyncio.get_running_loop()
        self._configured: asyncio.Future[Configure] = loop.create_future()
        self._drain: asyncio.Future[Drain] = loop.create_future()
        self._asked: dict[int, asyncio.Future[Gathered | Informed]] = {}
        self._ids = itertools.count(1)

    async def run(self) -> int:
        """Returns the exit status."""
        self._channel = await Channel.open(self._end, self._take, self._told_to_end)
        waiting: tuple[asyncio.Future[Configure], asyncio.Future[Drain]] = (self._configured, self._drain)
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        try:
            if self._configured.done():
                await self._work(self._configured.result())
        except Exception as error:
            logger.exception("the office cannot go on")
            self._channel.send(Refused(f"{type(error).__name__}: {error}"))
            return 1
        finally:
            await self._channel.close()
        return 0

    async def _work(self, told: Configure) -> None:
        config = unpack_config(told.config)
        assert config.database is not None
        set_up(cast(Literal["json", "pretty"], told.log_format), redactor=Redactor(secrets_of(config)))
        clock, rng = RealClock(), random.Random()  # noqa: S311 - spreads load, guards nothing
        opener = Opener(config.database.url.get_secret_value())
        desks = [
            Desk(opener, "directory"),
            Desk(opener, "api", threads=2),
            Desk(opener, "configs"),
            Desk(opener, "usage"),
        ]
        ring = Ring(config.database.grace_s)
        keepsake = Keepsake(snapshot_file(state_folder(), config.database))
        feed = Feed(DirectorySource(desks[0]), keepsake, clock, rng, ring.take)
        self._telemetry = telemetry = _telemetry(config)
        self._registry = _registry(config, feed)
        state = OfficeState(config, desks[1], self._pools, self._ask_config, lambda: feed.is_up)
        tokens = tokens_of(config.auth, clock, rng)
        identity = KeyRing(config.auth, ring, tokens=tokens, for_admins=True)
        server = AdminServer(state, identity, telemetry, clock, server_tls(config), told.version)
        if tokens is not None:
            await tokens.start()
        self._server = server
        try:
            following = follow_configs(desks[2], self._ask_config)
            intake = run_intake(desks[3], folder_of(config.database), clock, config.database.usage_days)
            admitting = self._admit(server, feed)
            await self._until_told([feed.run(), feed.serve(self._feed_socket), admitting, following, intake])
        finally:
            await server.aclose(self._drain.result().limit_s if self._drain.done() else 0.0)
            if tokens is not None:
                await tokens.aclose()
            for desk in desks:
                desk.close()
            await asyncio.to_thread(opener.close)
            await telemetry.aclose()

    async def _admit(self, server: AdminServer, feed: Feed) -> None:
        """Whoever asks before the keys are known waits a moment, rather than hearing that they are not."""
        await feed.known()
        server.start(self._admin)
        self._channel.send(Started())
        await asyncio.get_running_loop().create_future()

    async def _until_told(self, works: Iterable[Coroutine[None, None, None]]) -> None:
        """Whatever ends by itself ends all of it."""
        tasks = [asyncio.create_task(work) for work in works]
        waiting: list[asyncio.Future[Any]] = [self._drain, *tasks]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    # The supervisor

    async def _pools(self) -> PoolList:
        """What all workers see of the pools."""
        ask_id = next(self._ids)
        gathered = await self._ask(ask_id, Gather(ask_id), ANSWER_S)
        assert isinstance(gathered, Gathered)
        return merge_reports(map(PoolList.model_validate_json, gathered.reports))

    async def _ask_config(self, question: Question) -> Answer:
        ask_id = next(self._ids)
        informed = await self._ask(ask_id, Inquire(ask_id, msgspec.json.encode(question)), CONFIG_S)
        assert isinstance(informed, Informed)
        return _answers.decode(informed.answer)

    async def _ask(self, ask_id: int, question: Message, within_s: float) -> Gathered | Informed:
        answer: asyncio.Future[Gathered | Informed] = asyncio.get_running_loop().create_future()
        self._asked[ask_id] = answer
        try:
            self._channel.send(question)
            async with asyncio.timeout(within_s):
                return await answer
        finally:
            del self._asked[ask_id]

    def _take(self, message: Message) -> None:
        match message:
            case Ask(id=ask_id) if self._registry is not None:
                self._channel.send(Numbers(ask_id, self._registry.snapshot()))
            case Gathered(id=ask_id) | Informed(id=ask_id):
                answer = self._asked.get(ask_id)
                if answer is not None and not answer.done():
                    answer.set_result(message)
            case Versioned(version=version) if self._server is not None:
                self._server.call(version)
            case Reopen() if self._telemetry is not None:
                self._telemetry.reopen()
            case Drain() if not self._drain.done():
                self._drain.set_result(message)
            case Configure():
                self._configured.set_result(message)
            case _:
                pass

    def _told_to_end(self) -> None:
        if not self._drain.done():
            self._drain.set_result(Drain(0.0, 0.0))


def _telemetry(config: Config) -> Telemetry:
    """For the access log alone: requests of the admin API are no traffic, and stand in no metric."""
    options = config.telemetry.model_copy(update={"tracing": Tracing()})
    return Telemetry(options, redactor=Redactor(secrets_of(config)))


def _registry(config: Config, feed: Feed) -> Registry:
    """What the office adds to the gateway's metrics."""

    def up() -> Iterable[tuple[Labels, float]]:
        return [((), float(feed.is_up))]

    registry = Registry(Bound(config.telemetry.max_tenants))
    registry.watch(series.DATABASE_UP, up)
    return registry


async def _run(channel_fd: int, admin_fd: int, feed_fd: int) -> int:
    return await Office(*(socket.socket(fileno=fd) for fd in (channel_fd, admin_fd, feed_fd))).run()


def main(argv: list[str]) -> int:
    # They reach the whole group of a terminal, or of a service; the supervisor says what they mean, and when.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(*map(int, argv)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
