"""Clients that go away at random points leave nothing behind: the harness checks it, and the engine is idle again."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from tests.harness import CHAT, Server, chat, config_of, engine_running, request_bytes, serving, streamed

CLIENTS = 40


async def leave(server: Server, rng: random.Random) -> None:
    """Send a part or all of a request, or two, read a part or all of the answer, and go."""
    body = json.dumps(rng.choice((streamed, chat))(max_tokens=rng.randrange(1, 30))).encode()
    data = request_bytes("POST", CHAT, body) * rng.choice((1, 1, 2))
    if rng.random() < 0.2:
        data = data[: rng.randrange(1, len(data))]
    wanted = rng.choice((0, 1, rng.randrange(6_000), 1 << 20))
    async with server.connected() as wire:
        await wire.send(data)
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(rng.random() * 0.004)
        read = 0
        try:
            async with asyncio.timeout(rng.random() * 0.1):
                while read < wanted and (piece := await wire.reader.read(min(wanted - read, 4096))):
                    read += len(piece)
        except (TimeoutError, ConnectionError):
            pass
        if rng.random() < 0.5:
            wire.reset()


async def aborted(count: int, seed: int) -> None:
    rng = random.Random(seed)
    faults = {"ttft_s": 0.005, "itl_s": 0.001}
    async with (
        engine_running(**faults) as one,
        engine_running(**faults) as other,
        serving(config_of(one, other)) as server,
    ):
        for _ in range(count // CLIENTS):
            async with asyncio.TaskGroup() as group:
                for _ in range(CLIENTS):
                    group.create_task(leave(server, random.Random(rng.random())))
        await asyncio.gather(one.idle(), other.idle())
        assert one.stats.aborted + other.stats.aborted > count / 20, "too few clients left early"
        assert (await server.post(CHAT, chat())).status_code == 200


async def test_a03_clients_that_leave_at_random_points_leave_nothing() -> None:
    await aborted(600, 1)


@pytest.mark.e2e
@pytest.mark.parametrize("seed", range(2, 7))
async def test_a03_two_thousand_more_clients_that_leave_at_random_points_leave_nothing(seed: int) -> None:
    await aborted(2_000, seed)
