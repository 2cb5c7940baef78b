"""Clouds on loopback: HTTP servers that keep what they were asked and answer what the test wrote down."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.base import Engine, EngineError, EngineRequest, Operation, Timeouts
from tests.engines.server import Peer, engine_server

Json = dict[str, Any]
LIMITS = Timeouts(connect_s=5, total_s=20)


@dataclass(frozen=True)
class Seen:
    """A request as the cloud got it."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        found: Json = json.loads(self.body)
        return found


@dataclass
class Cloud:
    """A running one. `answers` are given in order, the last one again and again."""

    answers: list[bytes | Callable[[Seen], bytes]]
    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, peer: Peer) -> None:
        while raw := await peer.request():
            seen = parsed(raw)
            self.seen.append(seen)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            await peer.send(answer if isinstance(answer, bytes) else answer(seen))
        self.hung_up.set()

    def paths(self) -> list[str]:
        return [seen.line.split(" ")[1] for seen in self.seen]


@asynccontextmanager
async def cloud(*answers: bytes | Callable[[Seen], bytes], tls: ssl.SSLContext | None = None) -> AsyncIterator[Cloud]:
    running = Cloud(list(answers))
    async with engine_server(running.serve, tls) as running.url:
        yield running


def parsed(raw: bytes) -> Seen:
    head, _, body = raw.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    pairs = (one.partition(": ") for one in lines)
    return Seen(line, {name.lower(): value for name, _, value in pairs}, body)


def answer(body: object, status: int = 200, **headers: str) -> bytes:
    """A whole answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(content)}\r\n"
    return (head + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n").encode() + content


def stream(body: bytes, *, ends: bool = True) -> bytes:
    """A stream in one chunk; `ends`: its body is complete."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n" % (len(body), body) + (b"0\r\n\r\n" if ends else b"")


def events(*data: object) -> bytes:
    """Events of OpenAI's kind, and `[DONE]`."""
    return b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in data) + b"data: [DONE]\n\n"


def said(body: bytes) -> list[Json]:
    """What the events of an OpenAI stream carry, but for `[DONE]`."""
    found = [block.removeprefix(b"data: ") for block in body.split(b"\n\n") if block]
    return [json.loads(one) for one in found if one != b"[DONE]"]


class Collector:
    """A receiver that can be waited for."""

    def __init__(self) -> None:
        self.body = b""
        self.over: asyncio.Future[EngineError | None] = asyncio.get_running_loop().create_future()
        self.arrived = asyncio.Event()

    def on_data(self, payload: bytes, framed: bytes | None) -> None:
        self.body += payload
        self.arrived.set()

    def splice(self, chunk: bytes) -> bool:
        return False

    def on_end(self) -> None:
        self.over.set_result(None)

    def on_error(self, error: EngineError) -> None:
        self.over.set_result(error)


async def asked(engine: Engine, body: Json, operation: Operation = Operation.CHAT) -> tuple[int, bytes]:
    """Status and whole body of one request; streamed if it asks for that.

    Raises:
        EngineError: the stream broke off.
    """
    request = EngineRequest(operation, json.dumps(body).encode(), bool(body.get("stream")))
    response = await engine.send(request, LIMITS)
    if not request.stream or response.status != 200:
        content = await response.read(1 << 20)
        return response.status, content
    collector = Collector()
    response.subscribe(collector)
    error = await collector.over
    if error is not None:
        raise error
    return response.status, collector.body


def every_cut(data: bytes) -> Iterable[tuple[bytes, bytes]]:
    return ((data[:at], data[at:]) for at in range(len(data) + 1))


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for `localhost`: its file, and a server's context with it."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    subprocess.run([*command, *names, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context
