"""What the end of a request leaves for the garbage collector, which rarely runs (A13)."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable

from tests.harness import CHAT, Json, Server, settled

TIMES = 10
REPLICAS = 12
"""More than requests, so that one failure at each replica opens no breaker."""


async def left_by(server: Server, end: Callable[[], Awaitable[object]]) -> Counter[str]:
    """The classes of our objects that only the collector would have freed after `TIMES` calls of `end`.

    The first call comes before, for what is made once.
    """
    await end()
    gc.collect()
    gc.disable()
    try:
        for _ in range(TIMES):
            await end()
        await settled(lambda: server.gateway.server.open, "connections are open")
        await asyncio.sleep(0)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return Counter(type(one).__qualname__ for one in gc.garbage if _is_ours(one))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _is_ours(thing: object) -> bool:
    module = type(thing).__module__
    return module.startswith(("gateway.", "engines.", "router.")) and not module.startswith("engines.fake")


async def ask(server: Server, body: Json, *, hangs_up: bool) -> None:
    if not hangs_up:
        await server.post(CHAT, body)
        return
    async with server.asking(body) as wire:
        await wire.read_head()
        wire.reset()
