"""The real gateway on a loopback socket, in front of fake engines, and clients that see every byte.

    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(CHAT, chat())

Leaving either block is a check: whatever a request held must have been given back.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from engines.fake import FakeEngine, FakeOptions
from gateway.app import Gateway
from gateway.config import Config
from gateway.config.load import parse_config
from gateway.telemetry import merge, render

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
MODEL = "m"
SETTLE_S = 3.0
"""How long what a request held may take to be given back before a check calls it a leak."""
PATIENCE_S = 10.0
"""A client in a test waits this long for anything."""

Json = dict[str, Any]


# Configurations and bodies


def config_of(
    *engines: FakeEngine | str,
    server: Json | None = None,
    keys: list[Json] | None = None,
    engine: Json | None = None,
    pool: Json | None = None,
    cache: Json | None = None,
    telemetry: Json | None = None,
    model: str | None = None,
    **deployment: Any,
) -> Json:
    """One deployment `m` with one pool `p`, whose replicas are `engines`: fake engines, or base URLs."""
    urls = [one if isinstance(one, str) else one.url for one in engines]
    variant: Json = {"pools": ["p"]} | ({"model": model} if model else {})
    return {
        "server": {"port": 0} | (server or {}),
        "auth": {"keys": keys or []},
        "pools": {"p": {"urls": urls, "engine": engine or {}} | (pool or {})},
        "deployments": {MODEL: {"variants": {"v": variant}} | deployment},
        "cache": cache or {},
        "telemetry": telemetry or {},
    }


def chat(content: str = "hello there", **fields: Any) -> Json:
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


def streamed(content: str = "hello there", **fields: Any) -> Json:
    return chat(content, stream=True, **fields)


# The parts that run


@asynccontextmanager
async def engine_running(**options: Any) -> AsyncIterator[FakeEngine]:
    """A fake engine that serves the model `m`. No connection of the gateway's may outlive the gateway."""
    async with FakeEngine(msgspec.convert({"models": (MODEL,)} | options, FakeOptions)) as engine:
        yield engine
        engine.release()
        await settled(lambda: _in_use(engine), "the fake engine is still in use")


def _in_use(engine: FakeEngine) -> object:
    return engine.stats if engine.stats.open or engine.stats.connected else None


@asynccontextmanager
async def serving(config: str | Mapping[str, Any] | Config) -> AsyncIterator[Server]:
    """A gateway as one worker process runs it. Takes a YAML text, the tree of one, or a checked configuration.

    The access log goes to a file, unless the configuration says where; `Server.records` reads it.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "access.log"
        gateway = await asyncio.to_thread(lambda: Gateway(_with_log(_checked(config), log)))
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        server = Server(gateway, sock.getsockname()[1], log)
        await gateway.start(sock)
        try:
            yield server
            await settled(lambda: held_by(gateway), "something was not given back")
        finally:
            await gateway.aclose()


def _checked(config: str | Mapping[str, Any] | Config) -> Config:
    if isinstance(config, Config):
        return config
    return parse_config(config) if isinstance(config, str) else Config.model_validate(config)


def _with_log(config: Config, log: Path) -> Config:
    if "access_log" in config.telemetry.model_fields_set:
        return config
    tree = config.model_dump()
    tree["telemetry"]["access_log"]["path"] = str(log)
    return Config.model_validate(tree)


def held_by(gateway: Gateway) -> list[str]:
    """Everything of requests and connections that the gateway holds; empty when it is at rest."""
    held = [repr(replica) for replica in gateway.replicas if replica.in_flight]
    held += [repr(connection) for connection in gateway.server.open]
    if repr(gateway.ledger) != "<LocalLedger in_flight={}>":
        held.append(repr(gateway.ledger))
    held += [f"{name} {value:g}" for name, value in gauges(gateway).items() if value]
    return held


def gauges(gateway: Gateway) -> dict[str, float]:
    """The gauges of `/metrics` that count what is under way."""
    under_way = ("headrace_in_flight", "headrace_client_connections", "headrace_replica_in_flight")
    text = render(merge([gateway.telemetry.snapshot()]), "").body.decode()
    return {name: value for name, value in metrics_in(text).items() if name.startswith(under_way)}


def metrics_in(text: str) -> dict[str, float]:
    """Prometheus text as `name{labels}` to value."""
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


class Watch:
    """How long a block took: `elapsed_s` after it."""

    elapsed_s = 0.0

    def __enter__(self) -> Self:
        self._began_s = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.elapsed_s = time.monotonic() - self._began_s


async def settled(held: Callable[[], object], complaint: str, within_s: float = SETTLE_S) -> None:
    """Wait until `held` answers nothing.

    Raises:
        AssertionError: it still answers something after `within_s`.
    """
    deadline_s = time.monotonic() + within_s
    while found := held():
        assert time.monotonic() < deadline_s, f"{complaint}: {found}"
        await asyncio.sleep(0.002)


@dataclass
class Server:
    """A running gateway, and ways to talk to it. `trust` is for one that serves TLS."""

    gateway: Gateway
    port: int
    log: Path
    host: str = "127.0.0.1"
    trust: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.gateway.config.server.tls else 'http'}://{self.host}:{self.port}"

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
        verify = self.trust or False
        async with httpx.AsyncClient(
            base_url=self.url, trust_env=False, timeout=PATIENCE_S, verify=verify, **options
        ) as client:
            yield client

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with self.client() as client:
            return await client.request(method, path, **options)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.request("GET", path, headers=named(headers))

    async def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.request("POST", path, content=content, headers=named(headers))

    @asynccontextmanager
    async def connected(self, *, receive_bytes: int | None = None) -> AsyncIterator[Wire]:
        """A connection of its own. `receive_bytes`: the size of its receive buffer, for a client that reads slowly."""
        sock = socket.socket()
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (self.host, self.port))
        name = "localhost" if self.trust else None
        reader, writer = await asyncio.open_connection(sock=sock, ssl=self.trust, server_hostname=name, limit=4096)
        async with Wire(reader, writer) as wire:
            yield wire

    @asynccontextmanager
    async def asking(self, body: object, path: str = CHAT, **headers: str) -> AsyncIterator[Wire]:
        """A connection on which a request has just been sent."""
        async with self.connected() as wire:
            await wire.send(request_bytes("POST", path, body, **headers))
            yield wire

    async def metrics(self) -> dict[str, float]:
        return metrics_in((await self.get("/metrics")).text)

    async def records(self, count: int = 1) -> list[Json]:
        """The access log once it has `count` lines."""
        await settled(
            lambda: None if len(self._lines()) >= count else self._lines() or "none", f"under {count} records", 5.0
        )
        return [msgspec.json.decode(line) for line in self._lines()]

    def _lines(self) -> list[bytes]:
        return [line for line in self.log.read_bytes().split(b"\n") if line]


# The client that sees bytes


def named(headers: Mapping[str, str]) -> dict[str, str]:
    """Keyword arguments as header names."""
    return {name.replace("_", "-"): value for name, value in headers.items()}


def request_bytes(method: str, path: str, body: object = b"", **headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"host": "gateway", **named(headers)}
    if method == "POST":
        lines.setdefault("content-length", str(len(content)))
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode() + b"\r\n" + content


@dataclass(frozen=True)
class Head:
    status: int
    headers: list[tuple[str, str]]
    raw: bytes

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True)
class Answer:
    head: Head
    body: bytes

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def error(self) -> Json:
        found: Json = msgspec.json.decode(self.body)["error"]
        return found


@dataclass
class Wire:
    """One connection to the gateway. What it reads it waits for, at most `PATIENCE_S`."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: Head = field(default_factory=lambda: Head(0, [], b""))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.hang_up()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE_S):
            await self.writer.drain()

    async def read_head(self) -> Head:
        async with asyncio.timeout(PATIENCE_S):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        status, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        self.head = Head(int(status.split(" ")[1]), [(name.lower(), value) for name, value in pairs], raw)
        return self.head

    async def read_chunk(self) -> bytes:
        """The payload of the next chunk; empty at the end of the body."""
        async with asyncio.timeout(PATIENCE_S):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            data = await self.reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def read_body(self, *, bodiless: bool = False) -> bytes:
        length = self.head.get("content-length")
        if bodiless:
            return b""
        async with asyncio.timeout(PATIENCE_S):
            if length is not None:
                return await self.reader.readexactly(int(length))
            if self.head.get("transfer-encoding") != "chunked":
                return await self.reader.read()
        chunks: list[bytes] = []
        while chunk := await self.read_chunk():
            chunks.append(chunk)
        return b"".join(chunks)

    async def answer(self, *, bodiless: bool = False) -> Answer:
        head = await self.read_head()
        return Answer(head, await self.read_body(bodiless=bodiless))

    async def rest(self) -> tuple[bytes, bool]:
        """Everything up to the end, and whether the end was a reset."""
        data = b""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while piece := await self.reader.read(65536):
                    data += piece
            except ConnectionResetError:
                return data, True
        return data, False

    def reset(self) -> None:
        """Go away without a word, as a killed process does."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def hang_up(self) -> None:
        self.writer.close()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            pass


# An engine that the test plays by hand


SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def framed(payload: bytes) -> bytes:
    """One HTTP/1.1 chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def whole(body: bytes, status: str = "200 OK", *lines: str) -> bytes:
    """An answer with its length."""
    more = "".join(f"{line}\r\n" for line in lines)
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def token(text: str, **fields: Any) -> bytes:
    """A chat chunk as an event."""
    choice: Json = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    chunk = {"id": "x", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice | fields]}
    return b"data: %b\n\n" % json.dumps(chunk).encode()


FINISH = token("", delta={}, finish_reason="stop")
DONE = b"data: [DONE]\n\n"


@dataclass
class Turn:
    """A request that has reached the engine by hand, to be answered with `send`. `gone`: the gateway hung up."""

    head: str
    body: bytes
    writer: asyncio.StreamWriter
    gone: asyncio.Event

    @property
    def headers(self) -> dict[str, str]:
        return dict(line.split(": ", 1) for line in self.head.split("\r\n")[1:])

    @property
    def json(self) -> Json:
        found: Json = json.loads(self.body)
        return found

    def send(self, *pieces: bytes) -> None:
        """Each piece is written at once, as one segment if it is small."""
        for piece in pieces:
            self.writer.write(piece)

    def events(self, *events: bytes) -> None:
        self.send(*map(framed, events))

    def end(self) -> None:
        self.send(b"0\r\n\r\n")

    def close(self) -> None:
        self.writer.close()


class HandEngine:
    """Every request waits until the test answers it."""

    def __init__(self, scheme: str) -> None:
        self.port = 0
        self._scheme = scheme
        self._turns: asyncio.Queue[Turn] = asyncio.Queue()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        return f"{self._scheme}://{'localhost' if self._scheme == 'https' else '127.0.0.1'}:{self.port}"

    async def turn(self) -> Turn:
        """The next request."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._turns.get()

    @property
    def waiting(self) -> int:
        """Requests that no `turn` has taken."""
        return self._turns.qsize()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        gone = asyncio.Event()
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n")
                length = next(line[16:] for line in head.lower().split("\r\n") if line.startswith("content-length: "))
                await self._turns.put(Turn(head, await reader.readexactly(int(length)), writer, gone))
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            gone.set()
            writer.close()
            del self._connections[task]

    async def aclose(self) -> None:
        for writer in self._connections.values():
            writer.transport.abort()
        await asyncio.gather(*self._connections, return_exceptions=True)


@asynccontextmanager
async def engine_by_hand(tls: ssl.SSLContext | None = None) -> AsyncIterator[HandEngine]:
    engine = HandEngine("https" if tls else "http")
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, ssl=tls)
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()
        await engine.aclose()
        await server.wait_closed()


@contextmanager
def no_answer() -> Iterator[str]:
    """The URL of a host to which no connection can be made, nor fails: the backlog of its socket is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def nobody() -> Iterator[str]:
    """The URL of a port at which nobody listens, for as long as the block lasts."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


# Event streams


def events_in(body: bytes) -> list[str]:
    """The data of each event, the way an SDK reads a stream: comments and blank lines are nothing."""
    blocks = body.decode().replace("\r\n", "\n").split("\n\n")
    found = ["\n".join(data_of(line) for line in block.split("\n") if line.startswith("data:")) for block in blocks]
    return [data for data in found if data]


def data_of(line: str) -> str:
    return line.removeprefix("data:").removeprefix(" ")


def text_in(body: bytes) -> str:
    """What the model said in a chat stream."""
    chunks = [json.loads(data) for data in events_in(body) if data != "[DONE]"]
    return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk.get("choices") or [])
