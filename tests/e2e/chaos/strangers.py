"""Clients that misbehave while the others are served. Nobody judges their answers, but nothing of them may stay."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from tests.harness import CHAT, chat, request_bytes

Stranger = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes, random.Random], Awaitable[None]]


async def _slow_sender(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, rng: random.Random
) -> None:
    """Head and body one byte at a time; half of them never come to the end."""
    end = len(request) if rng.random() < 0.5 else rng.randrange(1, len(request))
    for at in range(end):
        writer.write(request[at : at + 1])
        await asyncio.sleep(0.005)
    await asyncio.wait_for(reader.read(), 15.0)


async def _half_closer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, rng: random.Random
) -> None:
    """Says that it has ended as soon as it has sent, or before."""
    writer.write(request[: rng.choice((len(request), rng.randrange(len(request))))])
    writer.write_eof()
    await asyncio.wait_for(reader.read(), 15.0)


async def _leaver(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, rng: random.Random
) -> None:
    """Gone at some time before, during or after its answer."""
    writer.write(request)
    await asyncio.sleep(rng.uniform(0.0, 0.3))


async def _mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, rng: random.Random) -> None:
    """Connects, and says nothing."""
    await asyncio.sleep(rng.uniform(0.5, 5.0))


STRANGERS: tuple[Stranger, ...] = (_slow_sender, _half_closer, _leaver, _mute)


async def meet_strangers(address: tuple[str, int], key: str, seed: int, per_s: float) -> None:
    """Let them come, so many a second, until cancelled."""
    rng = random.Random(f"{seed}/strangers")
    async with asyncio.TaskGroup() as group:
        while True:
            await asyncio.sleep(rng.expovariate(per_s))
            group.create_task(_meet(address, key, rng))


async def _meet(address: tuple[str, int], key: str, rng: random.Random) -> None:
    body = chat("Stranger.", stream=rng.random() < 0.5, fake={"output_tokens": 20})
    request = request_bytes("POST", CHAT, body, authorization=f"Bearer {key}")
    try:
        reader, writer = await asyncio.open_connection(*address)
        try:
            await rng.choice(STRANGERS)(reader, writer, request, rng)
        finally:
            writer.transport.abort()
    except (OSError, TimeoutError):
        pass
