"""A13 behind classic model servers: what ends badly frees all it held by itself, with nothing for the collector."""

from __future__ import annotations

import pytest

from tests.endings import REPLICAS, ask, left_by
from tests.engines.server import Peer, engine_server
from tests.harness import Json, chat, config_of, framed, serving, streamed, whole

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


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a13_no_ending_leaves_a_cycle_of_ours(ending: str) -> None:
    answer, body = ENDINGS[ending]

    async def play(peer: Peer) -> None:
        while await peer.request():
            await peer.send(answer)
            if ending == "cut off":
                break

    async with engine_server(play) as url:
        urls = [f"{url}/{number}" for number in range(REPLICAS)]
        config = config_of(*urls, engine={"kind": "kserve"}, attempts=1, policy="round_robin")
        async with serving(config) as server:
            assert not await left_by(server, lambda: ask(server, body, hangs_up=ending == "hang up"))
