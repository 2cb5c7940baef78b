"""A13: what ends badly frees all it held by itself; the collector, which rarely runs, has nothing to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from engines.fake import FakeEngine
from tests.endings import REPLICAS, ask, left_by
from tests.harness import CHAT, Server, chat, config_of, engine_running, serving, settled, streamed

Ending = Callable[[Server, FakeEngine], Awaitable[None]]


async def good(server: Server, engine: FakeEngine) -> None:
    await server.post(CHAT, streamed())


async def engine_error(server: Server, engine: FakeEngine) -> None:
    await server.post(CHAT, chat(fake={"status": 500}))


async def engine_death(server: Server, engine: FakeEngine) -> None:
    await server.post(CHAT, streamed(fake={"die_after": 2}))


async def refused(server: Server, engine: FakeEngine) -> None:
    await server.post(CHAT, {"model": "nope"})


async def timeout(server: Server, engine: FakeEngine) -> None:
    await server.post(CHAT, chat(fake={"ttft": 5}))


async def hang_up(server: Server, engine: FakeEngine) -> None:
    await ask(server, streamed(fake={"itl": 0.5, "output_tokens": 50}), hangs_up=True)
    await settled(lambda: engine.stats.open, "the engine works on")


@pytest.mark.parametrize("ending", [good, engine_error, engine_death, refused, timeout, hang_up])
async def test_a13_no_ending_leaves_a_cycle_of_ours(ending: Ending) -> None:
    async with engine_running() as engine:
        config = config_of(*[engine] * REPLICAS, timeouts={"ttft_s": 0.2})
        async with serving(config) as server:
            assert not await left_by(server, lambda: ending(server, engine))
