"""The engine client against real sockets: what it sends, and the connections that it keeps."""

from __future__ import annotations

import asyncio

import pytest

from engines.base import EngineDied
from engines.http import Endpoint, HttpEngine
from tests.engines.exchange import ASK, HI, LIMITS, STREAM, client, echo, whole
from tests.engines.server import Peer, engine_server


async def test_a_request_goes_out_whole_and_its_connection_is_kept() -> None:
    async with client(echo) as engine:
        seen = await whole(engine)
        assert seen == (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: %b\r\nauthorization: Bearer engine-key\r\n"
            b"content-type: application/json\r\nx-request-id: r1\r\ncontent-length: 13\r\n\r\n"
            b'{"model":"m"}' % seen.split(b"host: ")[1].split(b"\r\n")[0]
        )
        assert repr(engine) == "<HttpEngine e idle=1>"
        await whole(engine)
        assert repr(engine._idle) == "[<Connection idle served=2>]"
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(whole(engine))
        assert repr(engine) == "<HttpEngine e idle=3>"
    assert repr(engine) == "<HttpEngine e idle=0>"


async def test_the_state_of_an_exchange_can_be_read() -> None:
    release = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        await release.wait()
        await peer.send(b"2\r\nhi\r\n0\r\n\r\n")
        await peer.closed()

    async with client(script) as engine:
        response = await engine.send(ASK, LIMITS)
        assert repr(response) == "<Exchange open status=200>"
        assert response.last_data_s == 0.0
        release.set()
        assert await response.read(10) == b"hi"
        assert response.last_data_s > 0.0
        assert repr(response) == "<Exchange complete status=200>"
        response.abort()
        assert repr(response) == "<Exchange complete status=200>"
        assert repr(engine) == "<HttpEngine e idle=1>"


async def test_a_kept_connection_that_the_engine_closed_is_replaced_once() -> None:
    """The engine closes as the request goes out; the request is sent again, on a new connection."""
    connections = 0

    async def script(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.request()
        await peer.send(HI)
        if await peer.request():
            peer.reset()

    async with client(script) as engine:
        assert await whole(engine) == b"hi"
        assert await whole(engine) == b"hi"
        assert connections == 2


async def test_a_request_that_kills_connections_is_not_shown_to_each_kept_one() -> None:
    dead = 0
    killing = False
    together = asyncio.Barrier(4)

    async def script(peer: Peer) -> None:
        nonlocal dead
        if not killing:
            await peer.request()
            await together.wait()
            await peer.send(HI)
        if await peer.request():
            dead += 1
            peer.reset()

    async with client(script) as engine:
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(whole(engine))
        assert repr(engine) == "<HttpEngine e idle=4>"
        killing = True
        with pytest.raises(EngineDied):
            await whole(engine)
        assert dead == 2


async def test_an_answer_that_began_is_never_asked_for_again() -> None:
    requests = 0

    async def script(peer: Peer) -> None:
        nonlocal requests
        while await peer.request():
            requests += 1
            if requests == 2:
                await peer.send(b"HTTP/1.1 2")
                return
            await peer.send(HI)

    async with client(script) as engine:
        await whole(engine)
        with pytest.raises(EngineDied, match="before its answer was complete"):
            await whole(engine)
        assert requests == 2


@pytest.mark.parametrize("tail", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"x"])
async def test_bytes_after_an_answer_never_become_the_next_answer(tail: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HI + tail)
        await peer.closed()

    async with client(script) as engine:
        assert await whole(engine) == b"hi"
        assert repr(engine) == "<HttpEngine e idle=0>"
        assert await whole(engine) == b"hi"


async def test_bytes_that_arrive_at_an_idle_connection_close_it() -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HI)
        await asyncio.sleep(0.01)
        await peer.send(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        await peer.closed()
        closed.set()

    async with client(script) as engine:
        assert await whole(engine) == b"hi"
        await asyncio.wait_for(closed.wait(), 5)
        assert repr(engine) == "<HttpEngine e idle=0>"
        assert await whole(engine) == b"hi"


@pytest.mark.parametrize(
    "answer", [HI.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), b"HTTP/1.0 200 OK\r\n\r\nhi"]
)
async def test_a_connection_that_the_engine_will_close_is_not_kept(answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)

    async with client(script) as engine:
        assert await whole(engine) == b"hi"
        assert repr(engine) == "<HttpEngine e idle=0>"


@pytest.mark.parametrize(
    ("answer", "healthy"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (HI, True),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", False),
        (b"nonsense\r\n", False),
    ],
)
async def test_health_is_a_200_from_the_health_path(answer: bytes, healthy: bool) -> None:
    asked: list[bytes] = []

    async def script(peer: Peer) -> None:
        asked.append(await peer.request())
        await peer.send(answer)

    async with client(script) as engine:
        assert await engine.healthy() is healthy
    assert asked[0].startswith(b"GET /health HTTP/1.1\r\nhost: ")
    assert b"content-length" not in asked[0]


async def test_closing_an_engine_lets_an_exchange_finish_and_keeps_no_connection() -> None:
    release = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        await release.wait()
        await peer.send(b"2\r\nhi\r\n0\r\n\r\n")
        await peer.closed()

    async with client(script) as engine:
        response = await engine.send(ASK, LIMITS)
        await engine.aclose()
        release.set()
        assert await response.read(10) == b"hi"
        assert repr(engine) == "<HttpEngine e idle=0>"


async def test_a_url_names_host_path_and_version_as_people_write_them() -> None:
    async with engine_server(echo) as url:
        port = url.rpartition(":")[2]
        engine = HttpEngine(Endpoint("e", f"http://user:pw@127.0.0.1:{port}/base/v1/"))
        seen = await whole(engine)
        assert seen.startswith(b"POST /base/v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%b\r\n" % port.encode())
        assert b"pw" not in seen
        await engine.aclose()
