"""Reading a publisher over real sockets: what is lost, what comes twice, and engines that begin anew."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engines.kv_events.sockets import MissingLibrary, Sockets, message_in
from engines.kv_events.sources import Source
from engines.kv_events.subscriber import Subscriber
from engines.kv_events.tracker import Tracker
from tests.engines.kv_events.publisher import (
    BLOCK,
    CLEARED,
    Heard,
    Publisher,
    chained,
    keys_of,
    publishing,
    removed,
    stored,
)

A = list(range(100, 116))
B = [*A[:8], *range(200, 208)]
C = list(range(300, 312))


class Reader:
    def __init__(self, publisher: Publisher, *, replay: bool = True, **options: Any) -> None:
        endpoint = publisher.replay_endpoint if replay else ""
        self.heard = Heard()
        self.sockets = Sockets()
        source = Source(publisher.endpoint, endpoint, publisher.topic.decode())
        self.subscriber = Subscriber(source, Tracker(self.heard), self.sockets, **{"quiet_s": 60.0} | options)


@contextlib.asynccontextmanager
async def reading(publisher: Publisher, *, replay: bool = True, **options: Any) -> AsyncIterator[Reader]:
    """A reader that live messages reach, and that runs again whenever its connection is lost."""
    reader = Reader(publisher, replay=replay, **options)

    async def run() -> None:
        while True:
            await reader.subscriber.run()

    task = asyncio.get_running_loop().create_task(run())
    try:
        await publisher.subscribed()
        if replay and not publisher.deaf:
            await reader.heard.until(lambda: reader.heard.calls)
        yield reader
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert repr(reader.sockets) == "<Sockets open=0>"


async def test_a_reader_from_the_start_knows_all() -> None:
    async with publishing() as engine, reading(engine) as reader:
        await reader.heard.holds()
        await engine.publish(stored(A))
        await engine.publish(stored(B, first=2), removed(chained(A)[3]))
        await reader.heard.holds(keys_of(A)[:3], keys_of(B))
        assert repr(reader.subscriber).startswith(f"<Subscriber {engine.endpoint} <Sequence next=2> <Tracker exact")


async def test_a_late_reader_is_told_by_replay() -> None:
    async with publishing(topic="kv") as engine:
        await engine.publish(stored(A))
        await engine.publish(stored(B, first=2))
        async with reading(engine) as reader:
            await reader.heard.holds(keys_of(A), keys_of(B))
            await engine.publish(CLEARED)
            await reader.heard.holds()


async def test_a_reader_that_is_too_late_is_not_exact_until_the_cache_is_cleared() -> None:
    async with publishing(buffer_steps=2) as engine:
        for event in (stored(C), stored(A), stored(B, first=2)):
            await engine.publish(event)
        async with reading(engine) as reader:
            await reader.heard.holds(keys_of(A), keys_of(B), exact=False)
            await engine.publish(CLEARED, stored(C))
            await reader.heard.holds(keys_of(C))


async def test_what_came_by_replay_is_not_taken_twice() -> None:
    """Live messages wait while a replay brings the same."""
    async with publishing() as engine, reading(engine) as reader:
        engine.lose.add(0)
        await engine.publish(stored(A))
        await engine.publish(stored(A))
        await engine.publish(stored(A))
        await engine.publish(removed(*chained(A)), removed(*chained(A)))
        await engine.publish(stored(C))
        await reader.heard.holds(keys_of(A), keys_of(C))
        await engine.publish(removed(*chained(A)))
        await reader.heard.holds(keys_of(C))
        assert reader.subscriber.missed == 0


@pytest.mark.parametrize("old", [False, True])
async def test_a_gap_is_filled_by_replay(old: bool) -> None:
    async with publishing(old=old, arrays=old) as engine, reading(engine) as reader:
        engine.lose.update({1, 2})
        for event in (stored(A), removed(chained(A)[3]), stored(B, first=2), stored(C)):
            await engine.publish(event)
        await reader.heard.holds(keys_of(A)[:3], keys_of(B), keys_of(C))
        assert (engine.asked, reader.subscriber.missed) == ([0, 0], 0)
        assert reader.heard.calls.count("not exact") == 0


async def test_a_replay_with_a_hole_is_asked_for_again() -> None:
    async with publishing() as engine, reading(engine) as reader:
        engine.lose.update(range(1, 5))
        engine.lose_replay.update({2, 4})
        for event in (stored(A), stored(B, first=2), removed(chained(A)[3]), removed(chained(B)[3]), CLEARED):
            await engine.publish(event)
        await engine.publish(stored(C))
        await reader.heard.holds(keys_of(C))
        assert engine.asked == [0, 0, 1]
        assert reader.subscriber.missed == 0


async def test_a_gap_without_a_replay_socket_is_not_exact_until_the_cache_is_cleared() -> None:
    async with publishing() as engine, reading(engine, replay=False) as reader:
        engine.lose.add(1)
        for event in (stored(A), stored(B, first=2), stored(C)):
            await engine.publish(event)
        await reader.heard.holds(keys_of(A), keys_of(C), exact=False)
        assert reader.subscriber.missed == 1
        await engine.publish(CLEARED)
        await reader.heard.holds()


async def test_a_replay_socket_that_does_not_answer_is_as_none() -> None:
    async with publishing() as engine:
        engine.deaf = True
        async with reading(engine, replay_s=0.05) as reader:
            engine.lose.add(1)
            for event in (stored(A), stored(B, first=2), stored(C)):
                await engine.publish(event)
            await reader.heard.holds(keys_of(A), keys_of(C), exact=False)


async def test_a_gap_beyond_the_replay_buffer_is_not_exact() -> None:
    async with publishing(buffer_steps=1) as engine, reading(engine) as reader:
        engine.lose.update({1, 2})
        for event in (stored(A), stored(B, first=2), CLEARED, stored(C)):
            await engine.publish(event)
        await reader.heard.holds(keys_of(A), keys_of(C), exact=False)


async def test_without_a_replay_socket_the_first_message_says_whether_all_is_known() -> None:
    async with publishing() as engine:
        async with reading(engine, replay=False) as reader:
            await engine.publish(stored(A))
            await reader.heard.holds(keys_of(A))
        async with reading(engine, replay=False) as late:
            await engine.publish(stored(C))
            await late.heard.holds(keys_of(C), exact=False)


async def test_the_last_message_may_be_lost_too() -> None:
    """Nothing follows it that would show the gap: after a while of quiet the engine is asked."""
    async with publishing() as engine, reading(engine, quiet_s=0.05) as reader:
        engine.lose.add(1)
        await engine.publish(stored(A))
        await engine.publish(stored(B, first=2))
        await reader.heard.holds(keys_of(A), keys_of(B))


async def test_a_live_message_does_not_wait_for_an_answer_that_is_slow() -> None:
    async with publishing() as engine, reading(engine, quiet_s=0.01) as reader:
        engine.deaf = True
        await engine.publish(stored(A))
        while engine.asked != [0, 0]:
            await asyncio.sleep(0)
        await engine.publish(stored(C))
        await reader.heard.holds(keys_of(A), keys_of(C))
        while engine.asked != [0, 0, 1]:
            await asyncio.sleep(0)


async def test_a_connection_that_breaks_while_the_engine_is_asked_is_noticed() -> None:
    async with publishing() as engine, reading(engine, quiet_s=0.01) as reader:
        engine.deaf = True
        await engine.publish(stored(A))
        while engine.asked != [0, 0]:
            await asyncio.sleep(0)
        engine.deaf = False
        await engine.restart()
        await reader.heard.holds()


async def test_an_engine_that_begins_anew_holds_nothing() -> None:
    async with publishing() as engine, reading(engine) as reader:
        await engine.publish(stored(A))
        await reader.heard.holds(keys_of(A))
        await engine.restart()
        await reader.heard.holds()
        await engine.subscribed()
        await engine.publish(stored(C))
        await reader.heard.holds(keys_of(C))
        assert reader.subscriber.missed == 0


async def test_an_engine_that_began_anew_and_is_as_far_as_before_is_noticed() -> None:
    """Its numbers go on where the old ones ended; its messages are others."""
    async with publishing() as engine, reading(engine) as reader:
        await engine.publish(stored(A))
        await engine.publish(stored(B, first=2))
        await reader.heard.holds(keys_of(A), keys_of(B))
        await engine.stop()
        engine.number = 0
        await engine.start()
        engine._buffer.clear()
        for event in (stored(C), stored(A), removed(*chained(C))):
            await engine.publish(event)
        await reader.heard.holds(keys_of(A))


async def test_a_restart_that_a_proxy_hides_is_noticed_by_the_numbers() -> None:
    async with publishing() as engine, reading(engine) as reader:
        for event in (stored(A), stored(B, first=2)):
            await engine.publish(event)
        await reader.heard.holds(keys_of(A), keys_of(B))
        engine.number = 0
        engine._buffer.clear()
        for event in (stored(C), removed(chained(C)[2]), stored(C)):
            await engine.publish(event)
        await reader.heard.holds(keys_of(C))
        engine.number = 0
        engine._buffer.clear()
        engine.lose.add(0)
        await engine.publish(stored(A))
        await engine.publish(stored(C))
        await reader.heard.holds(keys_of(A), keys_of(C))


async def test_a_hidden_restart_whose_beginning_is_lost_is_not_exact() -> None:
    async with publishing() as engine, reading(engine, replay=False) as reader:
        for event in (stored(A), stored(B, first=2)):
            await engine.publish(event)
        await reader.heard.holds(keys_of(A), keys_of(B))
        engine.number = 1
        await engine.publish(stored(C))
        await reader.heard.holds(keys_of(C), exact=False)


async def test_a_broken_connection_to_the_same_engine_loses_nothing() -> None:
    async with publishing() as engine, reading(engine) as reader:
        await engine.publish(stored(A))
        await reader.heard.holds(keys_of(A))
        await engine.stop()
        reader.subscriber.tracker.suspend()
        await engine.start()
        engine.lose.add(1)
        await engine.publish(stored(B, first=2))
        await reader.heard.holds(keys_of(A), keys_of(B))
        assert reader.subscriber.missed == 0


async def test_without_a_replay_socket_the_next_number_shows_that_nothing_was_missed() -> None:
    async with publishing() as engine, reading(engine, replay=False) as reader:
        await engine.publish(stored(A))
        await reader.heard.holds(keys_of(A))
        await engine.stop()
        reader.subscriber.tracker.suspend()
        await reader.heard.holds(keys_of(A), exact=False)
        await engine.start()
        await engine.subscribed()
        await engine.publish(stored(C))
        await reader.heard.holds(keys_of(A), keys_of(C))


async def test_a_message_that_cannot_be_read_makes_it_inexact(caplog: pytest.LogCaptureFixture) -> None:
    async with publishing() as engine, reading(engine) as reader:
        await engine.publish(stored(A))
        await engine.send(b"\xc1")
        await engine.send(b"\xc1")
        await engine.publish(stored(C))
        await reader.heard.holds(keys_of(A), keys_of(C), exact=False)
        assert reader.subscriber.malformed == 2
        (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert "KV event message of 1 bytes" in warning


async def test_frames_that_are_no_message_are_passed_over() -> None:
    async with publishing() as engine, reading(engine) as reader:
        await engine.send_frames(b"", b"no number")
        await engine.send_frames(b"alone")
        await engine.publish(stored(A))
        await reader.heard.holds(keys_of(A))
        assert reader.subscriber.malformed == 2


async def test_messages_of_other_topics_do_not_come() -> None:
    async with publishing(topic="kv") as engine, reading(engine) as reader:
        await engine.send_frames(b"other", (7).to_bytes(8, "big"), b"\xc1")
        await engine.publish(stored(A))
        await reader.heard.holds(keys_of(A))
        assert reader.subscriber.malformed == 0


async def test_a_burst_leaves_the_event_loop_its_turns() -> None:
    """While 300 messages of 40 blocks wait, the loop turns over for others, and no turn is long."""
    async with publishing() as engine, reading(engine) as reader:
        engine.lose.update(range(300))
        prompts = [[number, *range(1, 40 * BLOCK)] for number in range(300)]
        for prompt in prompts:
            await engine.publish(stored(prompt))
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.get_running_loop().create_task(tick())
        await engine.publish(stored(A))
        await reader.heard.holds(*map(keys_of, prompts), keys_of(A))
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
        assert ticks >= 300 * 40 / 256


async def test_a_cancelled_reader_takes_a_message_as_a_whole() -> None:
    """Half a message would be taken again, and counted as more copies."""
    async with publishing() as engine:
        long = list(range(1000 * BLOCK))
        reader = Reader(engine)
        for _ in range(20):
            task = asyncio.get_running_loop().create_task(reader.subscriber.run())
            await engine.subscribed()
            await reader.heard.until(lambda: reader.heard.exact)
            await engine.publish(stored(long))
            reader.heard.calls.clear()
            await reader.heard.until(lambda: "stored" in reader.heard.calls)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert reader.heard.keys == set(keys_of(long))
            await engine.publish(removed(*chained(long)))
        task = asyncio.get_running_loop().create_task(reader.subscriber.run())
        await reader.heard.holds()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_nobody_there_is_a_lost_connection() -> None:
    async with publishing() as engine:
        reader = Reader(engine, connect_s=0.05)
    await reader.subscriber.run()
    assert not reader.heard.calls


@pytest.mark.parametrize("endpoint", ["tcp://", "nonsense"])
async def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    sockets = Sockets()
    with pytest.raises(ValueError, match="cannot be connected to"):
        await Subscriber(Source(endpoint), Tracker(Heard()), sockets).run()
    assert repr(sockets) == "<Sockets open=0>"


async def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(MissingLibrary, match=r"headrace\[kv-events\]"):
        await Subscriber(Source("tcp://127.0.0.1:1"), Tracker(Heard()), Sockets()).run()


def test_what_is_no_message() -> None:
    assert message_in([b""]) is None
    assert message_in([b"", b"1234567", b""]) is None
    assert message_in([b"", b"topic", (3).to_bytes(8, "big"), b"x"]) == (3, b"x")
