"""A13 behind clouds: what ends badly frees all it held by itself, with nothing for the collector."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter

import pytest

from tests.engines.clouds import answer, cloud, stream
from tests.engines.test_anthropic import START, TALK, block, event, named
from tests.harness import CHAT, Json, Server, chat, config_of, serving, settled, streamed

TEXT = named(START, *block(0, "text", {"type": "text_delta", "text": "So"}, text=""))
FAILED = {"type": "error", "error": {"type": "api_error", "message": "oops"}}
ENDINGS: dict[str, tuple[bytes, Json]] = {
    "good": (stream(TALK), streamed()),
    "no message": (answer({"type": "completion"}), chat()),
    "no JSON": (answer(b"<html>"), chat()),
    "refused": (answer(FAILED, 400), streamed()),
    "not asked": (b"", chat(n=2)),
    "error event": (stream(TEXT + named(event("error", error=FAILED["error"]))), streamed()),
    "bad event": (stream(TEXT + b"data: {\n\n"), streamed()),
    "bad first event": (stream(b"data: {\n\n"), streamed()),
    "too short": (stream(TEXT), streamed()),
    "hang up": (stream(TEXT, ends=False), streamed()),
}
AZURE = {"kind": "azure", "api_key": "k"}
ANTHROPIC = {"kind": "anthropic", "api_key": "k"}
CASES = [(ANTHROPIC, ending) for ending in ENDINGS] + [(AZURE, "refused"), (AZURE, "hang up")]


async def end(server: Server, ending: str) -> None:
    body = ENDINGS[ending][1]
    if ending != "hang up":
        await server.post(CHAT, body)
        return
    async with server.asking(body) as wire:
        await wire.read_head()
        wire.reset()


@pytest.mark.parametrize(("engine", "ending"), CASES)
async def test_a13_no_ending_leaves_a_cycle_of_ours(engine: Json, ending: str) -> None:
    async with cloud(ENDINGS[ending][0]) as peer:
        # As many as calls, so that no breaker opens.
        config = config_of(*[peer.url] * 12, engine=engine, pool={"site": "cloud"}, attempts=1, policy="round_robin")
        async with serving(config) as server:
            await end(server, ending)
            gc.collect()
            gc.disable()
            try:
                for _ in range(10):
                    await end(server, ending)
                await settled(lambda: server.gateway.server.open, "connections are open")
                await asyncio.sleep(0)
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                left = Counter(type(one).__qualname__ for one in gc.garbage if _is_ours(one))
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
            assert not left


def _is_ours(thing: object) -> bool:
    return type(thing).__module__.startswith(("gateway.", "engines.", "router."))
