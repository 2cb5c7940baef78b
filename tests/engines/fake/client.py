"""A client that sees bytes, and one that sees JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

CHAT = "/v1/chat/completions"


def chat(content: str = "hello there", **fields: Any) -> dict[str, Any]:
    return {"model": "fake-model", "messages": [{"role": "user", "content": content}], **fields}


async def post(url: str, path: str, body: object, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as client:
        return await client.post(url + path, json=body, headers=headers)


async def get(url: str, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as client:
        return await client.get(url + path, headers=headers)


def events(text: str) -> list[Any]:
    """The JSON of every event but the end mark, which must be there."""
    *parts, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(part.removeprefix("data: ")) for part in parts]


@dataclass
class Wire:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, url: str) -> Wire:
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    def send(self, path: str, body: object, method: str = "POST", close: bool = True) -> None:
        data = json.dumps(body).encode()
        ending = "connection: close\r\n" if close else ""
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n{ending}\r\n"
        self.writer.write(head.encode() + data)

    async def until(self, mark: bytes) -> bytes:
        return await self.reader.readuntil(mark)

    async def rest(self) -> tuple[bytes, bool]:
        """Everything up to the end, and whether the end was a reset."""
        data = b""
        try:
            while piece := await self.reader.read(65536):
                data += piece
        except ConnectionResetError:
            return data, True
        return data, False

    async def aclose(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def exchange(url: str, body: object, path: str = CHAT) -> tuple[bytes, bool]:
    """All bytes of one answer, and whether it ended in a reset."""
    wire = await Wire.open(url)
    wire.send(path, body)
    answer = await wire.rest()
    await wire.aclose()
    return answer
