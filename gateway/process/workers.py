"""The worker processes as the supervisor sees them: started, replaced when they die, asked for numbers, drained."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import time
from collections.abc import Awaitable, Callable, Sequence

from engines.exit_reason import explain_exit
from engines.launcher import Backoff
from gateway.config import Config
from gateway.config.version import UNVERSIONED
from gateway.process.banner import Console
from gateway.process.board import ABSENT, Board
from gateway.process.control import (
    Ask,
    Channel,
    Configure,
    Drain,
    EnginesReady,
    Exposed,
    Gather,
    Gathered,
    Inquire,
    Message,
    Numbers,
    Refused,
    Reopen,
    Round,
    RoundAnswered,
    Scrape,
    Started,
    pack_config,
)
from gateway.process.forks import Nursery, Process, Start
from gateway.telemetry import Bound, Exposition, merge, render, retire

ASK_S = 0.2
"""A worker that does not answer by then counts with its last numbers, which are about a second old."""
START_S = 60.0
OVERTIME_S = 10.0
"""From the drain limit to SIGKILL."""
BACKOFF = Backoff(first_s=0.1, max_s=10.0, healthy_s=30.0, crash_loop_after=4)


Question = Scrape | Gather | Inquire | Round
"""What a process asks the supervisor."""


class WorkerFailed(Exception):
    """A worker could not start; the message says why."""


class Worker:
    """One process. `numbers`: its latest snapshot; `ended`: set once it is reaped and its last message is taken.

    pools: what it sees of the pools, as it last told; empty: it has not been asked.
    """

    def __init__(
        self,
        worker_id: int,
        process: Process,
        on_question: Callable[[Worker, Question], None],
    ):
        self.id = worker_id
        self.pid = process.pid
        self.numbers: bytes | None = None
        self.pools = b""
        self.ended = asyncio.Event()
        self.started = asyncio.Event()
        self.refusal = ""
        self._process = process
        self._on_question = on_question
        self._channel: Channel | None = None
        self._asked: dict[int, asyncio.Future[None]] = {}
        self._rounds: dict[int, asyncio.Future[bytes]] = {}
        self._ids = itertools.count(1)
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    def __repr__(self) -> str:
        state = "ended" if self.ended.is_set() else "serving" if self.started.is_set() else "starting"
        return f"<Worker {self.id} {state} pid={self.pid}>"

    @classmethod
    async def spawn(
        cls,
        told: Configure,
        fds: Sequence[int],
        on_question: Callable[[Worker, Question], None],
        start: Start,
    ) -> Worker:
        """Start a process with a channel and these descriptors.

        Raises:
            OSError: the system cannot start another process.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await start((theirs.fileno(), *fds))
            except OSError:
                ours.close()
                raise
        worker = cls(told.worker_id, process, on_question)
        worker._channel = await Channel.open(ours, worker._take)
        worker._channel.send(told)
        return worker

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def send(self, message: Message) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def kill(self) -> None:
        if not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def ask(self, *, pools: bool = False) -> None:
        """Have `numbers` renewed, and `pools` if they are wanted; returns when they are."""
        ask_id = next(self._ids)
        answer = self._asked[ask_id] = asyncio.get_running_loop().create_future()
        try:
            self.send(Ask(ask_id, pools))
            await answer
        finally:
            del self._asked[ask_id]

    async def tell(self, message: bytes) -> bytes:
        """Have its response cache told; returns what that says."""
        round_id = next(self._ids)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._rounds[round_id] = answer
        try:
            self.send(Round(round_id, message))
            return await answer
        finally:
            del self._rounds[round_id]

    def why(self) -> str:
        """Why it ended, as a sentence."""
        return self.refusal or explain_exit(self.returncode or 0, ()).sentence

    def _take(self, message: Message) -> None:
        match message:
            case Numbers(id=ask_id, snapshot=snapshot, pools=pools):
                self.numbers = snapshot
                self.pools = pools or self.pools
                answer = self._asked.get(ask_id)
                if answer is not None and not answer.done():
                    answer.set_result(None)
            case RoundAnswered(id=round_id, answers=[said]):
                told = self._rounds.get(round_id)
                if told is not None and not told.done():
                    told.set_result(said)
            case Scrape() | Gather() | Inquire() | Round():
                self._on_question(self, message)
            case Started():
                self.started.set()
            case Refused(message=text):
                self.refusal = text
            case _:
                pass

    async def _watch(self) -> None:
        await self._process.wait()
        if self._channel is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._channel.ended.wait(), 1.0)
            await self._channel.close(0.0)
        self.ended.set()


class Numbering:
    """The sum over all workers, those that are gone included (A22)."""

    def __init__(self, max_tenants: int, *beside: Callable[[], Awaitable[bytes]]) -> None:
        """beside: snapshots of what no worker knows, asked for at each scrape."""
        self._bound = Bound(max_tenants)
        self._beside = beside
        self._live: set[Worker] = set()
        self._retired: bytes | None = None
        self._answering: set[asyncio.Task[None]] = set()

    def include(self, worker: Worker) -> None:
        self._live.add(worker)

    def retire(self, worker: Worker) -> None:
        """Keep the counters of a worker that ended."""
        if worker not in self._live:
            return
        self._live.discard(worker)
        if worker.numbers is not None:
            before = [self._retired] if self._retired is not None else []
            self._retired = retire([*before, worker.numbers], bound=self._bound)

    def answer(self, worker: Worker, question: Question) -> None:
        """Answer one worker with what all know."""
        match question:
            case Scrape():
                work = self._answer(worker, question)
            case Gather():
                work = self._gather(worker, question)
            case Round():
                work = self._pass_round(worker, question)
            case _:
                return
        task = asyncio.get_running_loop().create_task(work)
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, worker: Worker, scrape: Scrape) -> None:
        exposition = await self.expose(scrape.accept)
        worker.send(Exposed(scrape.id, exposition.body, exposition.content_type))

    async def _gather(self, asker: Worker, gather: Gather) -> None:
        await self._ask_all(pools=True)
        asker.send(Gathered(gather.id, [worker.pools for worker in self._live if worker.pools]))

    async def _pass_round(self, asker: Worker, given: Round) -> None:
        """One that does not answer in time is left out; what it was told, it takes as soon as it can."""
        telling = [asyncio.create_task(w.tell(given.message)) for w in self._live if w.started.is_set()]
        told, late = await asyncio.wait(telling, timeout=ASK_S)
        for task in late:
            task.cancel()
        asker.send(RoundAnswered(given.id, [task.result() for task in told]))

    async def _ask_all(self, *, pools: bool = False) -> None:
        asking = [asyncio.create_task(worker.ask(pools=pools)) for worker in self._live if worker.started.is_set()]
        if asking:
            _, late = await asyncio.wait(asking, timeout=ASK_S)
            for task in late:
                task.cancel()

    async def expose(self, accept: str) -> Exposition:
        await self._ask_all()
        live = [worker.numbers for worker in self._live if worker.numbers is not None]
        live += [await snapshot() for snapshot in self._beside]
        retired = [self._retired] if self._retired is not None else []
        return render(merge(live, retired, bound=self._bound), accept)


class Generation:
    """The workers of one configuration on one listening socket.

    config: as it was written; the workers get `effective`, in which every pool has URLs.
    engines_ready: False: they are still loading, and `engines_loaded` will be called.
    version, applied_at: of the configuration; Unix time in seconds.
    feed: path of the office's socket; empty: there is no office.
    """

    def __init__(
        self,
        config: Config,
        effective: Config,
        listener: socket.socket,
        count: int,
        console: Console,
        numbering: Numbering,
        nursery: Nursery,
        *,
        engines_ready: bool = True,
        version: str = str(UNVERSIONED),
        applied_at: float = 0.0,
        feed: str = "",
    ) -> None:
        self.listener = listener
        self.count = count
        self.config = config
        self._packed = pack_config(effective)
        self._board = Board.create(count)
        self._console = console
        self._numbering = numbering
        self._nursery = nursery
        self._engines_ready = engines_ready
        self._version = version
        self._applied_at = applied_at
        self._feed = feed
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret
        self._workers: dict[int, Worker] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._ending = asyncio.Event()
        self._farewell: Drain | None = None

    def __repr__(self) -> str:
        return f"<Generation {list(self._workers.values())}>"

    async def start(self) -> None:
        """Start every worker; returns when all accept connections.

        Raises:
            WorkerFailed: one of them cannot; the others are ended.
        """
        try:
            for worker_id in range(self.count):
                await self._spawn(worker_id)
            for worker in list(self._workers.values()):
                await self._started(worker)
        except BaseException:
            self.kill()
            for worker in self._workers.values():
                self._numbering.retire(worker)
            self._board.close()
            raise
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep(worker)) for worker in self._workers.values()]

    async def drain(self, limit_s: float, grace_s: float, *, replaced: bool = False) -> None:
        """Have every worker finish and end. See `Gateway.drain`."""
        self._ending.set()
        self._farewell = Drain(limit_s, grace_s, replaced)
        for worker in self._workers.values():
            worker.send(self._farewell)
        try:
            async with asyncio.timeout(limit_s + grace_s + OVERTIME_S):
                await self._all_ended()
        except TimeoutError:
            self._console.fail(f"workers did not end within {OVERTIME_S:g} s of the drain limit and are killed")
            self.kill()
            await self._all_ended()

    def kill(self) -> None:
        """SIGKILL now."""
        self._ending.set()
        self._farewell = None
        for worker in self._workers.values():
            worker.kill()

    def engines_loaded(self) -> None:
        """The workers are ready for requests from now on."""
        self._engines_ready = True
        for worker in self._workers.values():
            worker.send(EnginesReady())

    def reopen_logs(self) -> None:
        for worker in self._workers.values():
            worker.send(Reopen())

    async def _all_ended(self) -> None:
        for keeper in self._keepers:
            await asyncio.wait((keeper,))
        for worker in self._workers.values():
            await worker.ended.wait()
        self._board.close()

    async def _spawn(self, worker_id: int) -> Worker:
        told = Configure(
            worker_id,
            self.count,
            self._packed,
            self._console.how,
            self._engines_ready,
            self._version,
            self._applied_at,
            self._feed,
        )
        fds = (self.listener.fileno(), self._board.fd)
        worker = await Worker.spawn(told, fds, self._numbering.answer, self._nursery.start)
        self._workers[worker_id] = worker
        self._numbering.include(worker)
        return worker

    async def _started(self, worker: Worker) -> None:
        waits = [asyncio.create_task(worker.started.wait()), asyncio.create_task(worker.ended.wait())]
        try:
            await asyncio.wait(waits, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if worker.ended.is_set():
            raise WorkerFailed(f"worker {worker.id} could not start: {worker.why()}")
        if not worker.started.is_set():
            raise WorkerFailed(f"worker {worker.id} did not start within {START_S:g} s")

    async def _keep(self, worker: Worker) -> None:
        """Watch one worker, and replace it whenever it ends."""
        failures = 0
        while True:
            began_s = time.monotonic()
            await worker.ended.wait()
            self._numbering.retire(worker)
            self._board.put(worker.id, ABSENT)
            if self._ending.is_set():
                return
            failures = 1 if time.monotonic() - began_s >= BACKOFF.healthy_s else failures + 1
            pause_s = BACKOFF.pause_s(failures, self._rng)
            self._tell_end(worker, failures, pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause_s)
                return
            try:
                worker = await self._spawn(worker.id)
            except OSError as error:
                self._console.fail(f"the system cannot start another worker: {error}")
            if self._ending.is_set():
                self._send_off(worker)

    def _send_off(self, worker: Worker) -> None:
        """End a worker that was just being started when all the others were told to end."""
        if self._farewell is not None:
            worker.send(self._farewell)
        else:
            worker.kill()

    def _tell_end(self, worker: Worker, failures: int, pause_s: float) -> None:
        often = f" {failures} times in a row" if failures > 1 else ""
        text = f"worker {worker.id} (process {worker.pid}) ended{often}: {worker.why()}"
        if failures >= BACKOFF.crash_loop_after:
            self._console.fail(f"{text}; it is in a crash loop, the next start is in {pause_s:.1f} s")
        else:
            self._console.warn(f"{text}; a new one starts in {pause_s:.1f} s")
