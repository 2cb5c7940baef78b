"""A client that sees every byte."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import msgspec

from tests.harness.configs import Json
from tests.harness.waiting import PATIENCE_S


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
