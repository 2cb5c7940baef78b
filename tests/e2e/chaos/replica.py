"""One engine process behind its proxy, and what can be done to both."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.e2e.chaos.ledger import Ledger
from tests.e2e.chaos.proxy import HOST, Behaviour, ChaosProxy
from tests.harness import MODEL

ENGINE_FLAGS = ("--ttft", "0.05", "--itl", "0.01")
NEVER_S = float("inf")
HEALTHY_WITHIN_S = 20.0


@dataclass(slots=True, eq=False)
class Trouble:
    """One fault at one replica, from its beginning until the replica was well again. Instants are monotonic seconds."""

    kind: str
    replica: int
    began_s: float
    ended_s: float = NEVER_S

    def overlaps(self, from_s: float, to_s: float) -> bool:
        return self.began_s <= to_s and from_s <= self.ended_s


class Replica:
    """An engine in a process of its own, reached through `proxy` only."""

    def __init__(self, number: int, ledger: Ledger) -> None:
        self.number = number
        self.proxy = ChaosProxy(number, ledger)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        command = (sys.executable, "-m", "engines.fake", "--json", "--model", MODEL, *ENGINE_FLAGS)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        self._process = process
        assert process.stdout is not None
        self.proxy.engine_port = json.loads(await process.stdout.readline())["port"]
        await self.proxy.listen()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def ended(self) -> None:
        """Wait for the process's end; from then on connections are refused, as nobody listens."""
        assert self._process is not None
        await self._process.wait()
        self.proxy.refuse()

    async def configure(self, **options: Any) -> None:
        async with self._client() as client:
            (await client.post("/fake/options", json=options)).raise_for_status()

    async def stats(self) -> dict[str, int]:
        async with self._client() as client:
            found: dict[str, int] = (await client.get("/fake/stats")).json()
        return found

    async def heal(self) -> None:
        """Let bytes pass again, and wait until the engine answers through the proxy.

        Raises:
            TimeoutError: it does not.
        """
        self.proxy.behaviour = Behaviour()
        await self.proxy.listen()
        async with asyncio.timeout(HEALTHY_WITHIN_S), httpx.AsyncClient(trust_env=False, timeout=1.0) as client:
            while not await _answers(client, f"{self.proxy.url}/health"):
                await asyncio.sleep(0.05)

    async def aclose(self) -> None:
        await self.proxy.aclose()
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def _client(self) -> httpx.AsyncClient:
        """Past the proxy."""
        return httpx.AsyncClient(base_url=f"http://{HOST}:{self.proxy.engine_port}", trust_env=False, timeout=5.0)


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.HTTPError:
        return False


@asynccontextmanager
async def replicas_running(count: int, ledger: Ledger) -> AsyncIterator[list[Replica]]:
    async with AsyncExitStack() as stack:
        replicas = [Replica(number, ledger) for number in range(count)]
        for replica in replicas:
            stack.push_async_callback(replica.aclose)
        await asyncio.gather(*(replica.start() for replica in replicas))
        yield replicas


def now_s() -> float:
    return time.monotonic()
