"""Answers as they come: offered, paused, cancelled, and aborted."""

from __future__ import annotations

import asyncio
import time

import pytest

from engines.base import EngineDied, EngineTimeout, Timeouts
from tests.engines.exchange import ASK, LIMITS, STREAM, Collector, Script, Splicer, client, head_only, one_piece, silent
from tests.engines.server import Peer


@pytest.mark.parametrize("script", [silent, head_only, one_piece])
async def test_cancelling_closes_the_connection(script: Script) -> None:
    """A01, A02: before the head, before the body, and within it."""
    there, gone = asyncio.Event(), asyncio.Event()

    async def watched(peer: Peer) -> None:
        there.set()
        await script(peer)
        gone.set()

    async with client(watched) as engine:

        async def call() -> None:
            response = await engine.send(ASK, LIMITS)
            try:
                await response.read(100)
            finally:
                response.abort()

        task = asyncio.create_task(call())
        await there.wait()
        await asyncio.sleep(0.02)
        began_s = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 5)
        assert time.monotonic() - began_s < 0.25
        assert repr(engine) == "<HttpEngine e idle=0>"


async def test_aborting_is_idempotent_and_wakes_who_reads() -> None:
    async with client(one_piece) as engine:
        response = await engine.send(ASK, LIMITS)
        reading = asyncio.create_task(response.read(100))
        await asyncio.sleep(0.01)
        for _ in range(3):
            response.abort()
        with pytest.raises(EngineDied, match="aborted"):
            await reading
        response.pause()
        response.resume()
        assert repr(response) == "<Exchange failed status=200>"
        assert repr(engine) == "<HttpEngine e idle=0>"


async def test_a_subscriber_that_aborts_hears_nothing_more() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + b"2\r\nhi\r\n2\r\nho\r\n0\r\n\r\n")
        await peer.closed()

    class Quitter(Collector):
        def on_data(self, payload: bytes, framed: bytes | None) -> None:
            super().on_data(payload, framed)
            response.abort()

    async with client(script) as engine:
        response = await engine.send(ASK, LIMITS)
        seen = Quitter()
        response.subscribe(seen)
        await asyncio.wait_for(seen.arrived.wait(), 5)
        await asyncio.sleep(0.02)
        assert seen.body == b"hi"
        assert not seen.ended.is_set()


async def test_what_came_before_anybody_subscribed_is_not_lost() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + b"2\r\nhi\r\n5;x\r\nthere\r\n0\r\n\r\n")

    async with client(script) as engine:
        response = await engine.send(ASK, LIMITS)
        await asyncio.sleep(0.02)
        seen = Collector()
        response.subscribe(seen)
        assert seen.ended.is_set()
        assert seen.pieces == [(b"hi", b"2\r\nhi\r\n"), (b"there", None)]
        assert seen.error is None


async def test_whole_chunks_are_offered_for_splicing_and_others_are_decoded() -> None:
    """A12"""
    event = b'data: {"a":1}\n\n'
    framed = b"%x\r\n%b\r\n" % (len(event), event)
    gate = asyncio.Queue[None]()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        sent = (b"2\r\nhi\r\n", framed, framed + framed, framed[:5], framed[5:], b"f;x\r\n" + event + b"\r\n", framed)
        for piece in (*sent, b"0\r\n\r\n"):
            await gate.get()
            await peer.send(piece)
        await peer.closed()

    async with client(script) as engine:
        response = await engine.send(ASK, LIMITS)
        seen = Splicer()
        response.subscribe(seen)
        for _ in range(8):
            gate.put_nowait(None)
            await asyncio.sleep(0.01)
        await asyncio.wait_for(seen.ended.wait(), 5)
        assert seen.spliced == [framed, framed]
        assert seen.body == b"hi" + event * 4
        assert repr(engine) == "<HttpEngine e idle=1>"


async def test_a_paused_exchange_holds_the_engine_back_and_loses_nothing() -> None:
    """Back-pressure reaches the engine's socket; the idle limit does not count while nobody reads."""
    piece = b"%x\r\n%b\r\n" % (60_000, b"x" * 60_000)
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(STREAM)
        for _ in range(400):
            await peer.send(piece)
            sent += 1
        await peer.send(b"0\r\n\r\n")
        await peer.closed()

    async with client(script) as engine:
        response = await engine.send(ASK, Timeouts(idle_s=0.15, total_s=30))
        seen = Collector()
        response.subscribe(seen)
        await seen.arrived.wait()
        response.pause()
        response.pause()
        await asyncio.sleep(0.1)
        stuck = sent
        assert stuck < 400
        await asyncio.sleep(0.3)
        assert sent == stuck
        assert not seen.ended.is_set()
        response.resume()
        await asyncio.wait_for(seen.ended.wait(), 20)
        assert seen.error is None
        assert len(seen.body) == 400 * 60_000
        response.pause()
        assert repr(engine) == "<HttpEngine e idle=1>"
        assert engine._idle[0].paused is False


async def test_the_idle_limit_counts_again_after_a_pause() -> None:
    async with client(one_piece) as engine:
        response = await engine.send(ASK, Timeouts(idle_s=0.1))
        seen = Collector()
        response.subscribe(seen)
        await seen.arrived.wait()
        response.pause()
        await asyncio.sleep(0.25)
        assert not seen.ended.is_set()
        resumed_s = time.monotonic()
        response.resume()
        await asyncio.wait_for(seen.ended.wait(), 5)
        assert 0.09 <= time.monotonic() - resumed_s <= 0.25
        assert isinstance(seen.error, EngineTimeout)


async def test_an_answer_that_ends_while_paused_leaves_a_connection_that_reads() -> None:
    class Pauser(Collector):
        def on_data(self, payload: bytes, framed: bytes | None) -> None:
            super().on_data(payload, framed)
            response.pause()

    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send(STREAM)
            await peer.send(b"2\r\nhi\r\n0\r\n\r\n")

    async with client(script) as engine:
        for _ in range(3):
            response = await engine.send(ASK, LIMITS)
            seen = Pauser()
            response.subscribe(seen)
            await asyncio.wait_for(seen.ended.wait(), 5)
        assert repr(engine) == "<HttpEngine e idle=1>"


async def test_pausing_an_engine_that_has_just_died_is_harmless() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + b"2\r\nhi\r\n")
        peer.reset()

    async with client(script) as engine:
        response = await engine.send(ASK, LIMITS)
        seen = Collector()
        response.subscribe(seen)
        while not seen.ended.is_set():
            response.pause()
            response.resume()
            await asyncio.sleep(0.001)
        assert isinstance(seen.error, EngineDied)
        response.pause()
        response.resume()
