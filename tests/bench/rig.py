"""The parts of a measurement: an engine, a gateway and a load, each in processes of its own, and what they cost."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
import uvloop

from loadtest import Report
from tests.gateway.supervised import Served, descendants, served
from tests.harness import MODEL, Json, config_of

KEY = "sk-bench"
Cores = tuple[int, ...]
"""Where processes run; empty: anywhere."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_CORES = os.sched_getaffinity(0)


# What processes cost


def tree(pid: int) -> list[int]:
    return [pid, *descendants(pid)]


def cpu_s(pids: list[int]) -> float:
    """User and system time of these processes so far, in seconds."""
    return sum(_cpu_ticks(pid) for pid in pids) / _TICKS_PER_S


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(fields[11]) + int(fields[12])


def rss_bytes(pids: list[int]) -> int:
    """Resident memory of these processes."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * _PAGE_BYTES


@contextmanager
def pinned(cores: Cores) -> Iterator[None]:
    """What is started in the block runs on these cores, where the machine has them; with none, anywhere."""
    os.sched_setaffinity(0, _CORES & set(cores) or _CORES)
    try:
        yield
    finally:
        os.sched_setaffinity(0, _CORES)


T = TypeVar("T")


def long_run(work: Coroutine[Any, Any, T], limit_s: float) -> T:
    """The result of `work`, on a loop of its own: without the watch that tests keep on theirs, which takes time.

    Raises:
        TimeoutError: it is not there after `limit_s`.
    """

    async def limited() -> T:
        async with asyncio.timeout(limit_s):
            return await work

    return uvloop.run(limited())


# The parts


@dataclass(frozen=True)
class EngineProcess:
    """`python -m engines.fake`."""

    url: str
    pid: int

    async def stats(self) -> dict[str, int]:
        async with httpx.AsyncClient(trust_env=False) as client:
            found: dict[str, int] = (await client.get(f"{self.url}/fake/stats")).json()
        return found

    async def reached(self, name: str, count: int, within_s: float = 60.0) -> None:
        """Wait until a figure of `stats` is at least `count`."""
        async with asyncio.timeout(within_s):
            while (await self.stats())[name] < count:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def engine_process(*flags: str, cores: Cores = ()) -> AsyncIterator[EngineProcess]:
    command = (sys.executable, "-m", "engines.fake", "--json", "--model", MODEL, *flags)
    with pinned(cores):
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        ready = json.loads(await process.stdout.readline())
        yield EngineProcess(ready["url"], ready["pid"])
    finally:
        process.terminate()
        await process.communicate()


@asynccontextmanager
async def gateway_process(
    *urls: str,
    workers: int = 1,
    cores: Cores = (),
    max_parallel: int | None = None,
    keys: list[Json] | None = None,
    **deployment: Any,
) -> AsyncIterator[Served]:
    """`headrace serve` with what production has on: a key, usage, metrics, and an access log in a file."""
    with tempfile.TemporaryDirectory() as name:
        log = {"access_log": {"format": "json", "path": f"{name}/access.log"}}
        config = config_of(
            *urls,
            server={"workers": workers, "drain_s": 2},
            keys=[{"name": "bench", "tenant": "bench", "key": KEY, "max_parallel": max_parallel}, *(keys or [])],
            telemetry=log,
            **deployment,
        )
        async with AsyncExitStack() as stack:
            with pinned(cores):
                gateway = await stack.enter_async_context(served(Path(name), config, "--log-format", "json"))
                await gateway.ready()
            yield gateway


async def load(url: str, *flags: str, cores: Cores = ()) -> Report:
    """`python -m loadtest`.

    Raises:
        RuntimeError: it failed altogether.
    """
    command = (sys.executable, "-m", "loadtest", url, "--model", MODEL, "--key", KEY, "--json", *flags)
    with pinned(cores):
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if not output:
        raise RuntimeError(f"no report from {' '.join(command)}")
    return msgspec.json.decode(output, type=Report)
