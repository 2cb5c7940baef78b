"""The engine client's limits in time, and engines that cannot be reached."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from engines.base import EngineTimeout, EngineUnreachable, Timeouts
from engines.http import Endpoint, HttpEngine
from tests.engines.exchange import ASK, LIMITS, Collector, Script, client, dripping, head_only, one_piece, silent, whole
from tests.engines.server import Peer


@pytest.mark.parametrize(
    ("script", "limits", "phase"),
    [
        (silent, Timeouts(total_s=0.2), "total"),
        (silent, Timeouts(ttft_s=0.2, idle_s=0.05), "ttft"),
        (head_only, Timeouts(ttft_s=0.2), "ttft"),
        (head_only, Timeouts(ttft_s=0.2, idle_s=0.05, total_s=3), "ttft"),
        (one_piece, Timeouts(ttft_s=0.1, idle_s=0.2), "idle"),
        (one_piece, Timeouts(idle_s=0.2, total_s=None), "idle"),
        (dripping, Timeouts(ttft_s=0.1, idle_s=0.1, total_s=0.2), "total"),
    ],
)
async def test_each_limit_fires_in_its_phase_and_closes_the_connection(
    script: Script, limits: Timeouts, phase: str
) -> None:
    """A10: within 100 ms of 0.2 s, wherever the caller waits."""
    async with client(script) as engine:
        began_s = time.monotonic()
        with pytest.raises(EngineTimeout, match=rf"within {phase} timeout of 0\.2 s") as caught:
            await whole(engine, limits)
        assert 0.19 <= time.monotonic() - began_s <= 0.3
        assert (caught.value.phase, caught.value.limit_s, caught.value.sent) == (phase, 0.2, True)
        assert repr(engine) == "<HttpEngine e idle=0>"


async def test_a_subscriber_is_told_of_a_limit() -> None:
    """A10"""
    async with client(one_piece) as engine:
        response = await engine.send(ASK, Timeouts(idle_s=0.1))
        seen = Collector()
        response.subscribe(seen)
        await asyncio.wait_for(seen.ended.wait(), 5)
        assert seen.body == b"hi"
        assert isinstance(seen.error, EngineTimeout)
        assert seen.error.phase == "idle"
        assert repr(response) == "<Exchange failed status=200>"


@pytest.mark.parametrize(("limits", "phase"), [(Timeouts(connect_s=0.2), "connect"), (Timeouts(total_s=0.2), "total")])
async def test_a_connection_that_does_not_come_about_is_given_up(limits: Timeouts, phase: str) -> None:
    """A10: a full accept queue leaves the handshake unanswered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fill = [socket.socket() for _ in range(4)]
        for one in fill:
            one.setblocking(False)
            one.connect_ex(address)
        engine = HttpEngine(Endpoint("e", f"http://127.0.0.1:{address[1]}"))
        began_s = time.monotonic()
        with pytest.raises(EngineTimeout, match=rf"within {phase} timeout of 0\.2 s") as caught:
            await engine.send(ASK, limits)
        assert 0.19 <= time.monotonic() - began_s <= 0.3
        assert caught.value.sent is (phase == "total")
        for one in fill:
            one.close()


async def test_the_total_limit_counts_from_before_the_connection() -> None:
    """A10: a slow handshake is part of the whole."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.closed()

    async with client(script) as engine:
        kept = engine._connect

        async def slow(limits: Timeouts) -> object:
            await asyncio.sleep(0.15)
            return await kept(limits)

        engine._connect = slow  # type: ignore[method-assign, assignment]
        began_s = time.monotonic()
        with pytest.raises(EngineTimeout):
            await whole(engine, Timeouts(total_s=0.3))
        assert 0.29 <= time.monotonic() - began_s <= 0.4


async def test_an_engine_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        engine = HttpEngine(Endpoint("e", f"http://127.0.0.1:{port}"))
        with pytest.raises(EngineUnreachable, match=f"cannot connect to 127.0.0.1:{port}") as caught:
            await engine.send(ASK, LIMITS)
        assert not caught.value.sent
        assert not await engine.healthy()


async def test_a_host_name_that_no_resolver_takes_is_unreachable() -> None:
    engine = HttpEngine(Endpoint("e", f"http://{'x' * 64}.invalid"))
    with pytest.raises(EngineUnreachable):
        await engine.send(ASK, LIMITS)
    assert not await engine.healthy()


def test_a_url_without_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="has no host"):
        HttpEngine(Endpoint("e", "http://"))


def test_headers_of_an_endpoint_are_not_shown() -> None:
    assert "secret" not in repr(Endpoint("e", "http://x", {"authorization": "secret"}))
