"""What the engine client makes of large answers, of broken ones, and of deaths."""

from __future__ import annotations

import asyncio

import pytest

from engines.base import EngineDied, EngineProtocolError
from tests.engines.exchange import ASK, LIMITS, STREAM, client, dripping, whole
from tests.engines.server import Peer


async def test_a_body_over_the_limit_is_cut_off() -> None:
    async with client(dripping) as engine:
        response = await engine.send(ASK, LIMITS)
        with pytest.raises(EngineProtocolError, match="over 100 bytes"):
            await response.read(100)
        assert repr(response) == "<Exchange failed status=200>"


async def test_a_body_of_many_pieces_is_read_whole() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        for _ in range(50):
            await peer.send(b"1\r\nx\r\n" * 200)
        await peer.send(b"0\r\n\r\n")

    async with client(script) as engine:
        assert len(await whole(engine)) == 10_000


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", STREAM + b"zz\r\n"]
)
async def test_an_answer_that_is_no_http_fails_and_closes(answer: bytes) -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        await peer.closed()
        closed.set()

    async with client(script) as engine:
        with pytest.raises(EngineProtocolError):
            await whole(engine)
        await asyncio.wait_for(closed.wait(), 5)


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200", STREAM, STREAM + b"5\r\nhel"])
@pytest.mark.parametrize("reset", [True, False])
async def test_a_death_is_told_wherever_it_comes(begun: bytes, reset: bool) -> None:
    """A08"""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(begun)
        await asyncio.sleep(0.02)
        if reset:
            peer.reset()

    async with client(script) as engine:
        with pytest.raises(EngineDied) as caught:
            await whole(engine)
        assert caught.value.sent
