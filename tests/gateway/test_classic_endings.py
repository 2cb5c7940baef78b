"""A13 behind classic model servers: what ends badly frees all it held by itself, with nothing for the collector."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter

import pytest

from tests.engines.server import Peer, engine_server
from tests.harness import CHAT, Json, Server, chat, config_of, framed, serving, settled, streamed, whole

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PIECE = framed(b'data: {"text_output": "a"}\n\n')
END = b"0\r\n\r\n"
ENDINGS: dict[str, tuple[bytes, Json]] = {
    "good": (HEAD + PIECE + END, streamed()),
    "whole": (whole(b'{"text_output": "a"}'), chat()),
    "no such path": (whole(b'{"text": "a"}'), chat()),
    "no JSON": (whole(b"<html>"), chat()),
    "refused": (whole(b'{"error": "no"}', "400 Bad Request"), streamed()),
    "not asked": (b"", chat(n=2)),
    "error event": (HEAD + PIECE + framed(b'data: {"error": "no"}\n\n'), streamed()),
    "bad event": (HEAD + PIECE + framed(b"data: {\n\n"), streamed()),
    "bad first event": (HEAD + framed(b"data: {\n\n"), streamed()),
    "no event": (HEAD + END, streamed()),
    "cut off": (HEAD + PIECE, streamed()),
    "hang up": (HEAD + PIECE, streamed()),
}


async def end(server: Server, ending: str) -> None:
    body = ENDINGS[ending][1]
    if ending != "hang up":
        await server.post(CHAT, body)
        return
    async with server.asking(body) as wire:
        await wire.read_head()
        wire.reset()


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a13_no_ending_leaves_a_cycle_of_ours(ending: str) -> None:
    answer = ENDINGS[ending][0]

    async def play(peer: Peer) -> None:
        while await peer.request():
            await peer.send(answer)
            if ending == "cut off":
                break

    async with engine_server(play) as url:
        # As many as calls, so that no breaker opens.
        urls = [f"{url}/{number}" for number in range(12)]
        config = config_of(*urls, engine={"kind": "kserve"}, attempts=1, policy="round_robin")
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
