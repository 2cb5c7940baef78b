"""Configurations with more than one deployment, what may be asked of them, and a place that nothing may reach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from engines.fake import FakeEngine
from tests.harness import CHAT, COMPLETIONS, EMBEDDINGS, NO_SCRAPE, HandEngine, Json, chat, streamed

Where = FakeEngine | HandEngine | str
SECRET = "the patient is called Marrow"
OPERATIONS: list[tuple[str, Json]] = [
    (CHAT, chat(SECRET)),
    (CHAT, streamed(SECRET)),
    (COMPLETIONS, {"model": "m", "prompt": SECRET}),
    (COMPLETIONS, {"model": "m", "prompt": SECRET, "stream": True}),
    (EMBEDDINGS, {"model": "m", "input": SECRET}),
    ("/tokenize", {"model": "m", "prompt": SECRET}),
    ("/detokenize", {"model": "m", "tokens": [1, 2, 3]}),
]
"""Each way to send the secret to a model, and token IDs."""


def falling_back(name: str) -> dict[str, list[str]]:
    """`fallbacks` to one deployment, for every reason."""
    return {reason: [name] for reason in ("error", "overloaded", "context_length", "policy")}


def several(**deployments: Json) -> Json:
    """Each deployment has one variant with one pool of its own name, and options beside these:

    engines: its replicas; pool: options of the pool; pools: names of more pools; model: what the engines know it by.
    """
    pools: Json = {}
    found: Json = {}
    for name, given in deployments.items():
        options = dict(given)
        engines: list[Where] = options.pop("engines")
        urls = [one if isinstance(one, str) else one.url for one in engines]
        pools[name] = {"urls": urls, "scrape": NO_SCRAPE} | options.pop("pool", {})
        variant = {"pools": [name, *options.pop("pools", [])], "model": options.pop("model", "m")}
        found[name] = {"variants": {f"{name}-v": variant}} | options
    return {"server": {"port": 0}, "pools": pools, "deployments": found}


@dataclass
class Trap:
    """A server that plays a cloud. `seen`: every byte that came."""

    url: str = ""
    connections: int = 0
    seen: bytearray = field(default_factory=bytearray)

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while piece := await reader.read(65536):
                self.seen += piece
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        except ConnectionError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def egress_trap() -> AsyncIterator[Trap]:
    trap = Trap()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: Any = asyncio.current_task()
        tasks.add(task)
        try:
            await trap.take(reader, writer)
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    trap.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield trap
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
