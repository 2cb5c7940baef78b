"""One run: calm and chaos by turns, under a steady load; then everything must be as it was."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.rig import KEY
from tests.e2e.chaos.client import Asked, ask
from tests.e2e.chaos.ledger import Ledger
from tests.e2e.chaos.replica import Replica, replicas_running
from tests.e2e.chaos.report import Findings
from tests.e2e.chaos.schedule import Schedule
from tests.e2e.chaos.strangers import meet_strangers
from tests.e2e.mix import under_way
from tests.gateway.supervised import Served, client, served, sockets
from tests.harness import Json, config_of

REPLICAS = 6
SETTLE_S = 2.0
"""After its fault a replica may be as hard to reach as before for so long: the breaker looks again in its own time."""
REST_S = 20.0
STRANGERS_PER_S = 2.0
CALM_SHARE = 0.25
"""Calm time, over the time of chaos."""
ROUND_S = 60.0
SETTINGS: Json = {
    "pool": {"probe": {"every_s": 1.0}},
    "attempts": 10,
    "retry_share": 1.0,
    "timeouts": {"connect_s": 1.0, "ttft_s": 2.0, "idle_s": 3.0, "total_s": 60.0},
}
"""What an admin sets so that the promise holds: an attempt for every replica, some more for those that are back after
all have failed, and no cap on retries; limits that let a hung one go in time for all of them, and probes that find out
soon when one is back."""
TASK_COUNTER = """
import asyncio, os, pathlib, signal

def _count(*_):
    tasks = [task for task in asyncio.tasks._all_tasks if not task.done()]
    path = pathlib.Path(os.environ["CHAOS_TASKS"]) / str(os.getpid())
    path.with_suffix(".part").write_text("\\n".join(sorted(task.get_coro().__qualname__ for task in tasks)))
    path.with_suffix(".part").rename(path)

signal.signal(signal.SIGUSR2, _count)
"""
"""Loaded by every Python process of the gateway as `sitecustomize`: SIGUSR2 makes it name its tasks."""


@dataclass
class Plan:
    """How long the chaos lasts, and how many requests come in that time; as many a second come while it is calm."""

    chaos_s: float
    requests: int
    seed: int = 1

    @property
    def per_s(self) -> float:
        return self.requests / self.chaos_s

    @property
    def rounds(self) -> int:
        return max(1, round(self.chaos_s / ROUND_S))


@dataclass
class Rest:
    """What a worker holds when nothing is under way."""

    sockets: int
    tasks: list[str]
    gauges: dict[str, float]

    def __str__(self) -> str:
        return f"{self.sockets} sockets, {len(self.tasks)} tasks, gauges not at zero: {self.gauges or 'none'}"


class Run:
    def __init__(self, plan: Plan, replicas: list[Replica], gateway: Served, folder: Path, ledger: Ledger) -> None:
        self._plan = plan
        self._replicas = replicas
        self._gateway = gateway
        self._folder = folder
        self._ledger = ledger
        self._schedule = Schedule(replicas, plan.seed, SETTLE_S)
        self._rng = random.Random(f"{plan.seed}/load")
        self._number = 0
        parts = urlsplit(gateway.url)
        self._address = parts.hostname or "", parts.port or 0

    async def run(self) -> Findings:
        before = await self._rest()
        calm: list[Asked] = []
        chaotic: list[Asked] = []
        rounds = self._plan.rounds
        calm_s = self._plan.chaos_s * CALM_SHARE / (rounds + 1)
        for _ in range(rounds):
            calm += await self._load(calm_s)
            chaotic += await self._chaos(self._plan.chaos_s / rounds)
        calm += await self._load(calm_s)
        findings = Findings(calm, chaotic, self._schedule.troubles, self._ledger)
        after = await self._rest(before)
        findings.offences += _left(before, after)
        findings.at_rest = f"before: {before}; after: {after}"
        findings.offences += [
            f"engine {replica.number} still answers {open_} requests"
            for replica in self._replicas
            if (open_ := (await replica.stats())["open"])
        ]
        return findings

    async def _chaos(self, duration_s: float) -> list[Asked]:
        strangers = asyncio.create_task(meet_strangers(self._address, KEY, self._plan.seed, STRANGERS_PER_S))
        planned = self._schedule.plan(duration_s)
        print("\n".join(map(str, planned)), flush=True)
        schedule = asyncio.create_task(self._schedule.run(planned))
        try:
            found = await self._load(duration_s)
            await schedule
        finally:
            strangers.cancel()
            schedule.cancel()
            await asyncio.gather(strangers, schedule, return_exceptions=True)
        return found

    async def _load(self, duration_s: float) -> list[Asked]:
        """Requests at their times, whether or not others have ended; half of them streams."""
        tasks: list[asyncio.Task[Asked]] = []
        due_s = began_s = time.monotonic()
        while due_s < began_s + duration_s:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            self._number += 1
            asked = Asked(f"chaos-{self._number:06}", stream=self._number % 2 == 0)
            tasks.append(asyncio.create_task(ask(self._address, KEY, asked)))
            due_s += self._rng.expovariate(self._plan.per_s)
        return await asyncio.gather(*tasks)

    async def _rest(self, like: Rest | None = None) -> Rest:
        """What is held once nothing is under way and no engine keeps a connection; at the latest after a while."""
        deadline_s = time.monotonic() + REST_S
        while True:
            for replica in self._replicas:
                replica.proxy.cut_all()
            found = await self._held()
            at_rest = not found.gauges and (like is None or not _left(like, found))
            if at_rest or time.monotonic() > deadline_s:
                return found
            await asyncio.sleep(0.5)

    async def _held(self) -> Rest:
        (worker,) = self._gateway.workers()
        async with client(self._gateway.url) as http:
            gauges = under_way((await http.get("/metrics")).text)
        return Rest(sockets(worker), await self._tasks(worker), gauges)

    async def _tasks(self, worker: int) -> list[str]:
        path = self._folder / str(worker)
        path.unlink(missing_ok=True)
        os.kill(worker, signal.SIGUSR2)
        async with asyncio.timeout(5.0):
            while not path.exists():
                await asyncio.sleep(0.01)
        return path.read_text().split("\n")


def _left(before: Rest, after: Rest) -> list[str]:
    """What is held now and was not before."""
    found = [f"gauge {name} stands at {value:g}" for name, value in after.gauges.items()]
    if after.sockets > before.sockets:
        found.append(f"{after.sockets} sockets are open, {before.sockets} were before")
    if len(after.tasks) > len(before.tasks):
        found.append(f"{len(after.tasks)} tasks run, {len(before.tasks)} did before: {after.tasks}")
    return found


@asynccontextmanager
async def _gateway(replicas: list[Replica], folder: Path) -> AsyncIterator[Served]:
    (folder / "sitecustomize.py").write_text(TASK_COUNTER)
    config = config_of(
        *(replica.proxy.url for replica in replicas),
        server={"workers": 1, "drain_s": 2, "header_timeout_s": 5, "body_timeout_s": 5},
        keys=[{"name": "chaos", "tenant": "chaos", "key": KEY}],
        telemetry={"access_log": {"format": "json", "path": str(folder / "access.log")}},
        **SETTINGS,
    )
    env = {"PYTHONPATH": str(folder), "CHAOS_TASKS": str(folder)}
    async with served(folder, config, "--log-format", "json", env=env) as gateway:
        await gateway.ready()
        yield gateway


async def run(plan: Plan) -> Findings:
    """Carry the plan out; settings and faults are printed as they come."""
    ledger = Ledger()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with replicas_running(REPLICAS, ledger) as replicas, _gateway(replicas, folder) as gateway:
            print(json.dumps({"chaos": plan.__dict__, "settings": SETTINGS}))
            return await Run(plan, replicas, gateway, folder, ledger).run()
