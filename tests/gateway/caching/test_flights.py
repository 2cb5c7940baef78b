"""Concurrent calls that ask the same are one call to the engine, whoever hangs up, fails or reads slowly meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from unittest.mock import patch

import msgspec
import pytest

from cache.answer import Answer
from engines.base import Operation
from gateway.caching import flights as flights_module
from gateway.caching.flights import MAX_FAILED, Flights
from gateway.caching.playback import Asked
from gateway.caching.seats import Fan, Landed, Seat
from gateway.errors import InternalError, Overloaded, UpstreamFailed
from gateway.record import Record, Usage
from gateway.relay import JSON_HEADERS, SSE_HEADERS
from gateway.sse import KEEPALIVE
from gateway.wire import Call
from tests.gateway.caching.clients import DONE, FINISH, OPENING, Client, token

KEY = b"k" * 32
ENDING = FINISH + DONE
TRUNCATED = OPENING + b'{},"finish_reason":"length"}]}\n\n' + DONE
USAGE = b'data: {"id":"i","object":"chat.completion.chunk","created":5,"model":"m","choices":[],"usage":%b}\n\n'
TOLD = USAGE % b'{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}'
MARKED = USAGE % (
    b'{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":3}}'
)
WHOLE = (
    b'{"id":"i","object":"chat.completion","created":5,"model":"m","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"ab"},"finish_reason":"stop"}]}'
)
LINES = b"x-headrace-cache: hit\r\n"


class Flow:
    """Of an engine. Implements `Flow`."""

    def __init__(self) -> None:
        self.paused = False

    def pause(self) -> None:
        assert not self.paused
        self.paused = True

    def resume(self) -> None:
        assert self.paused
        self.paused = False


class Made:
    """A call that is made, and ends when it is told to."""

    def __init__(self, fan: Fan, caller: Caller) -> None:
        self.fan = fan
        self.caller = caller
        self.flow = Flow()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def over(self) -> bool:
        return self._over.done() or self.fan.closed

    async def run(self) -> Landed:
        self.fan.bind(self.flow)
        try:
            await self._over
        finally:
            self.fan.bind(None)
        record = self.caller.record
        record.usage = Usage(prompt_tokens=3, completion_tokens=2)
        record.events, record.first_token_s, record.last_token_s = 5, 1.0, 2.0
        call = Call(Operation.CHAT, "m", self.caller.asked.stream, self.caller.asked.wants_usage, b"")
        return self.fan.land(call, record)

    def send(self, *pieces: bytes) -> None:
        if not self.fan.started:
            self.fan.start(200, SSE_HEADERS + b"a: b\r\n")
        for piece in pieces:
            self.fan.write(piece, framed(piece))

    def answer(self, body: bytes = WHOLE) -> None:
        self.fan.start(200, JSON_HEADERS, len(body))
        self.fan.write(body)
        self.end()

    def end(self) -> None:
        self.fan.end()
        self._over.set_result(None)

    def finish(self) -> None:
        self.send(ENDING)
        self.end()

    def fail(self, error: BaseException) -> None:
        self._over.set_exception(error)


class Caller:
    """One that asks. Used by `asking`."""

    def __init__(self, scene: Scene, asked: Asked, client: Client, key: bytes) -> None:
        self.asked, self.client = asked, client
        self.record = Record("r", 0.5)
        self.seat = Seat(client, asked)
        self._scene = scene
        self.task = asyncio.get_running_loop().create_task(scene.flights.fly(key, self.seat, self._make))

    async def _make(self, fan: Fan) -> Landed:
        made = Made(fan, self)
        self._scene.made.append(made)
        self._scene.news.set()
        return await made.run()

    def go(self) -> None:
        """As the server does it."""
        on_lost = self.client.on_lost
        if on_lost is None or not on_lost():
            self.task.cancel()

    async def hang_up(self) -> None:
        self.go()
        await ticks()


class Scene:
    """made: the calls to the engine, in their order."""

    def __init__(self, flights: Flights) -> None:
        self.flights = flights
        self.made: list[Made] = []
        self.news = asyncio.Event()
        self.callers: list[Caller] = []

    async def ask(
        self, *, stream: bool = True, usage: bool = False, client: Client | None = None, key: bytes = KEY
    ) -> Caller:
        caller = Caller(self, Asked(stream, usage, lines=LINES), client or Client(), key)
        self.callers.append(caller)
        await ticks()
        return caller


def framed(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


async def ticks(count: int = 8) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@asynccontextmanager
async def flying(**limits: int) -> AsyncIterator[Scene]:
    """Leaving it is a check: nothing is held, and nobody waits."""
    scene = Scene(Flights(60.0, **limits))
    yield scene
    await ticks()
    for caller in scene.callers:
        assert caller.task.done(), caller
        assert caller.client.flow is None
    assert scene.flights.held_bytes == 0
    assert repr(scene.flights).startswith("<Flights flying=0 held_bytes=0 joined=")
    for caller in scene.callers:
        if not caller.task.cancelled():
            caller.task.exception()


async def landed(caller: Caller) -> Landed:
    return await caller.task


async def cancelled(task: Awaitable[Landed]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await task


# Alone


async def test_a_call_that_nobody_joins_is_relayed_as_it_comes() -> None:
    async with flying() as scene:
        caller = await scene.ask()
        (made,) = scene.made
        assert (made.fan.started, made.fan.status, made.fan.splice) == (False, 0, None)
        made.send(token("a"))
        assert caller.client.got == token("a")
        assert caller.client.framed == [framed(token("a"))]
        assert caller.client.head == SSE_HEADERS + b"a: b\r\nx-headrace-cache: miss\r\n"
        assert (made.fan.started, made.fan.status, made.fan.gone) == (True, 200, "")
        assert made.fan.bytes_out == len(token("a"))
        assert repr(made.fan) == f"<Fan flying live=1 others=0 held_bytes={len(framed(token('a')))}>"
        assert repr(caller.seat) == "<Seat at=0>"
        made.fan.write(KEEPALIVE)
        assert not made.fan.whole
        made.finish()
        end = await landed(caller)
        assert made.fan.whole
        assert caller.client.got == token("a") + KEEPALIVE + ENDING
        assert caller.client.whole
        assert isinstance(end.answer, Answer)
        assert end.answer.gap_s == 0.25
        assert end.record is caller.record
        assert scene.flights.joined == 0


async def test_other_questions_are_other_calls() -> None:
    async with flying() as scene:
        await scene.ask()
        await scene.ask(key=b"other")
        assert len(scene.made) == 2
        for made in scene.made:
            made.finish()


async def test_a_call_after_the_end_of_one_is_another_one() -> None:
    async with flying() as scene:
        for count in (1, 2):
            caller = await scene.ask()
            assert len(scene.made) == count
            scene.made[-1].finish()
            await landed(caller)


# Together


async def test_who_joins_on_the_way_gets_everything_from_the_beginning_as_it_comes() -> None:
    async with flying() as scene:
        first, second = await scene.ask(), await scene.ask()
        (made,) = scene.made
        made.send(token("a"), token("b"))
        third = await scene.ask()
        for caller in (first, second, third):
            assert caller.client.got == token("a") + token("b")
        made.send(token("c"))
        made.finish()
        ends = [await landed(caller) for caller in (first, second, third)]
        assert ends[0] is ends[1] is ends[2]
        for caller in (first, second, third):
            assert caller.client.got == token("a") + token("b") + token("c") + ENDING
            assert caller.client.whole
        assert third.client.head == SSE_HEADERS + LINES
        assert scene.flights.joined == 2


async def test_who_joins_between_the_end_of_the_answer_and_of_the_call_has_all_of_it() -> None:
    async with flying() as scene:
        await scene.ask()
        (made,) = scene.made
        made.send(token("a"), ENDING)
        made.fan.end()
        second = await scene.ask()
        assert second.client.whole
        made.end()
        await landed(second)
        assert second.client.got == token("a") + ENDING


async def test_comments_go_to_all_streams_and_are_not_repeated() -> None:
    async with flying() as scene:
        first, second = await scene.ask(), await scene.ask()
        (made,) = scene.made
        made.fan.start(200, SSE_HEADERS)
        made.fan.write(KEEPALIVE)
        third = await scene.ask()
        assert (first.client.got, second.client.got, third.client.got) == (KEEPALIVE, KEEPALIVE, b"")
        made.finish()


async def test_a_whole_answer_goes_to_all_that_want_one() -> None:
    async with flying() as scene:
        callers = [await scene.ask(stream=False) for _ in range(3)]
        scene.made[0].answer()
        for caller in callers:
            await landed(caller)
            assert (caller.client.got, caller.client.length, caller.client.whole) == (WHOLE, len(WHOLE), True)
        assert callers[1].client.head == JSON_HEADERS + LINES


async def test_what_the_others_used_is_known_from_the_call_that_was_made() -> None:
    async with flying() as scene:
        first, second = await scene.ask(), await scene.ask()
        first.record.finish_reason = "stop"
        scene.made[0].finish()
        (await landed(second)).tell(second.record)
        assert second.record.usage == first.record.usage
        assert second.record.usage is not first.record.usage
        assert (second.record.status, second.record.finish_reason, second.record.events) == (200, "stop", 5)
        assert (second.record.first_token_s, second.record.last_token_s) == (1.0, 2.0)
        second.record.started_s = 1.5
        (await landed(second)).tell(second.record)
        assert second.record.first_token_s == 1.5


# In another form


async def test_who_wants_a_whole_answer_gets_one_when_the_stream_has_ended() -> None:
    async with flying() as scene:
        first, second = await scene.ask(), await scene.ask(stream=False)
        (made,) = scene.made
        made.send(token("a"), token("b"))
        assert not second.client.started
        made.finish()
        await landed(second)
        assert first.client.got.endswith(DONE)
        assert msgspec.json.decode(second.client.got)["choices"][0]["message"]["content"] == "ab"
        assert second.client.length == len(second.client.got)


async def test_who_wants_a_stream_gets_one_when_the_whole_answer_is_there_and_comments_until_then() -> None:
    scene = Scene(Flights(0.001))
    first, second = await scene.ask(stream=False), await scene.ask()
    await second.client.has(KEEPALIVE * 2)
    scene.made[0].answer()
    await landed(first)
    await landed(second)
    assert second.client.head == SSE_HEADERS + LINES
    assert b'"content":"ab"' in second.client.got
    assert second.client.got.endswith(DONE)


async def test_who_wants_another_form_of_what_was_cut_off_makes_a_call_of_its_own() -> None:
    async with flying() as scene:
        first = await scene.ask()
        others = [await scene.ask(stream=False) for _ in range(3)]
        scene.made[0].send(token("a"), TRUNCATED)
        scene.made[0].end()
        assert (await landed(first)).answer == "truncated"
        await ticks()
        assert len(scene.made) == 2, "one of the three"
        scene.made[1].answer(WHOLE.replace(b'"stop"', b'"length"'))
        for other in others:
            assert (await landed(other)).answer == "truncated"
            assert b'"length"' in other.client.got
        assert scene.flights.taken_over == 1


@pytest.mark.parametrize("ending", [ENDING, TRUNCATED], ids=["ended", "truncated"])
@pytest.mark.parametrize("cut", [False, True], ids=["apart", "in one piece"])
async def test_each_is_told_of_usage_as_it_asked_whoever_makes_the_call(ending: bytes, cut: bool) -> None:
    said = token("data: [DONE]")
    finish = ending.removesuffix(DONE)
    async with flying() as scene:
        quiet = await scene.ask()
        curious = await scene.ask(usage=True)
        pieces = [said + ending] if cut else [said, finish, DONE]
        scene.made[0].send(*pieces)
        assert curious.client.got == said + finish
        scene.made[0].end()
        await landed(curious)
        assert quiet.client.got == said + ending
        assert curious.client.got == said + finish + MARKED + DONE
    async with flying() as scene:
        curious = await scene.ask(usage=True)
        quiet = await scene.ask()
        pieces = [said + finish + TOLD + DONE] if cut else [said, finish, TOLD, DONE]
        scene.made[0].send(*pieces)
        scene.made[0].end()
        await landed(quiet)
        assert curious.client.got == said + finish + TOLD + DONE
        assert quiet.client.got == said + ending


async def test_a_stream_of_which_nothing_is_known_is_told_of_usage_all_the_same() -> None:
    async with flying() as scene:
        await scene.ask()
        curious = await scene.ask(usage=True)
        scene.made[0].send(DONE)
        scene.made[0].end()
        assert (await landed(curious)).answer == "incomplete"
        assert curious.client.got.startswith(b'data: {"choices":[],"usage":{"prompt_tokens":3,')


async def test_a_stream_that_breaks_off_ends_for_all_as_it_does_for_the_first() -> None:
    broken = UpstreamFailed("gone").event()
    async with flying() as scene:
        callers = [await scene.ask(usage=usage) for usage in (False, True, False)]
        scene.made[0].send(token("a"), broken)
        scene.made[0].end()
        for caller in callers:
            assert (await landed(caller)).answer == "error"
            assert caller.client.got == token("a") + broken
            assert caller.client.whole
    async with flying() as scene:
        await scene.ask(usage=True)
        quiet = await scene.ask()
        scene.made[0].send(token("a"), broken)
        scene.made[0].end()
        await landed(quiet)
        assert quiet.client.got == token("a") + broken


# Hang-ups


async def test_a_call_for_which_nobody_waits_is_given_up_at_once() -> None:
    async with flying() as scene:
        caller = await scene.ask()
        await caller.hang_up()
        await cancelled(caller.task)


async def test_a_call_goes_on_for_the_others_when_its_own_client_hangs_up() -> None:
    async with flying() as scene:
        first, second = await scene.ask(), await scene.ask()
        (made,) = scene.made
        made.send(token("a"))
        await first.hang_up()
        assert not first.task.done(), "it holds what the call holds"
        third = await scene.ask()
        made.finish()
        await cancelled(first.task)
        assert first.client.got == token("a")
        for caller in (second, third):
            assert isinstance((await landed(caller)).answer, Answer)
            assert caller.client.got == token("a") + ENDING
        assert len(scene.made) == 1


async def test_a_call_ends_when_the_last_one_hangs_up() -> None:
    async with flying() as scene:
        first, second, third = await scene.ask(), await scene.ask(), await scene.ask(stream=False)
        scene.made[0].send(token("a"))
        await first.hang_up()
        await second.hang_up()
        assert not first.task.done()
        await third.hang_up()
        for caller in (first, second, third):
            await cancelled(caller.task)


async def test_nobody_joins_a_call_that_is_given_up() -> None:
    async with flying() as scene:
        first = await scene.ask()
        first.go()
        second = await scene.ask()
        await cancelled(first.task)
        assert len(scene.made) == 2
        scene.made[1].finish()
        await landed(second)


async def test_who_hangs_up_leaves_the_others_alone() -> None:
    async with flying() as scene:
        first, second, third = await scene.ask(), await scene.ask(), await scene.ask()
        scene.made[0].send(token("a"))
        await second.hang_up()
        await cancelled(second.task)
        scene.made[0].finish()
        for caller in (first, third):
            await landed(caller)
            assert caller.client.got == token("a") + ENDING


async def test_a_client_that_hangs_up_as_the_call_ends_changes_nothing_for_the_others() -> None:
    async with flying() as scene:
        first, second = await scene.ask(client=Client(full_after=0)), await scene.ask()
        scene.made[0].send(token("a"))
        scene.made[0].finish()
        first.go()
        await cancelled(first.task)
        await landed(second)


async def test_who_closes_its_connection_as_soon_as_it_has_the_end_has_not_hung_up() -> None:
    async with flying() as scene:
        first, second, third = await scene.ask(), await scene.ask(), await scene.ask(stream=False)
        (made,) = scene.made
        made.send(token("a"), ENDING)
        made.fan.end()
        await first.hang_up()
        await second.hang_up()
        made.end()
        for caller in (first, second):
            assert isinstance((await landed(caller)).answer, Answer)
        third.go()
        await asyncio.wait((third.task,))


async def test_when_everything_is_to_stop_the_call_stops_though_others_wait() -> None:
    async with flying() as scene:
        first, second = await scene.ask(), await scene.ask()
        await first.hang_up()
        await first.hang_up()
        await cancelled(first.task)
        assert len(scene.made) == 2, "who is not stopped goes on"
        await second.hang_up()
        await cancelled(second.task)


# Failures


async def test_when_a_call_fails_before_it_said_anything_one_of_those_that_wait_makes_it_anew() -> None:
    async with flying() as scene:
        callers = [await scene.ask() for _ in range(4)]
        scene.made[0].fan.start(200, SSE_HEADERS)
        scene.made[0].fan.write(KEEPALIVE)
        scene.made[0].fail(Overloaded("full"))
        with pytest.raises(Overloaded):
            await callers[0].task
        await ticks()
        assert len(scene.made) == 2, "not all at once"
        late = await scene.ask()
        scene.made[1].send(token("a"))
        scene.made[1].finish()
        for caller in callers[1:]:
            assert (await landed(caller)).record is callers[1].record
            assert caller.client.got == KEEPALIVE + token("a") + ENDING
        await landed(late)
        assert late.client.got == token("a") + ENDING
        assert scene.flights.taken_over == 1


async def test_after_some_failures_in_a_row_all_that_wait_are_told() -> None:
    async with flying() as scene:
        callers = [await scene.ask(stream=place % 2 == 0) for place in range(10)]
        for count in range(MAX_FAILED):
            assert len(scene.made) == count + 1
            scene.made[count].fail(Overloaded(f"full {count}"))
            await ticks()
        assert len(scene.made) == MAX_FAILED
        for caller in callers[MAX_FAILED:]:
            with pytest.raises(Overloaded, match=f"full {MAX_FAILED - 1}"):
                await caller.task


async def test_a_failure_after_the_first_piece_is_that_of_all_that_have_it() -> None:
    async with flying() as scene:
        first, second, third = await scene.ask(), await scene.ask(), await scene.ask(stream=False)
        scene.made[0].send(token("a"))
        scene.made[0].fail(InternalError())
        for caller in (first, second):
            with pytest.raises(InternalError):
                await caller.task
        await ticks()
        scene.made[1].answer()
        await landed(third)
        assert third.client.got == WHOLE


async def test_who_hangs_up_as_it_is_its_turn_hands_it_on() -> None:
    async with flying() as scene:
        first, second, third, fourth = [await scene.ask() for _ in range(4)]
        scene.made[0].fail(Overloaded("full"))
        while second.seat.outcome is None or not second.seat.outcome.done():
            await asyncio.sleep(0)
        second.task.cancel()
        await ticks()
        await cancelled(second.task)
        assert len(scene.made) == 2
        assert scene.made[1].caller is third
        scene.made[1].finish()
        await landed(fourth)
        assert first.task.exception() is not None


async def test_the_last_one_that_hangs_up_as_it_is_its_turn_leaves_nothing() -> None:
    async with flying() as scene:
        _, second = await scene.ask(), await scene.ask()
        scene.made[0].fail(Overloaded("full"))
        while second.seat.outcome is None or not second.seat.outcome.done():
            await asyncio.sleep(0)
        await second.hang_up()
        await cancelled(second.task)
        assert len(scene.made) == 1


# Slow readers


async def test_the_engine_waits_only_if_nobody_can_take_more() -> None:
    async with flying() as scene:
        slow, quick = Client(full_after=0), Client(full_after=0)
        first, second = await scene.ask(client=slow), await scene.ask(client=quick)
        (made,) = scene.made
        made.send(token("a"))
        assert made.flow.paused
        assert repr(made.fan).startswith("<Fan waiting")
        quick.read()
        assert not made.flow.paused
        made.send(token("b"))
        assert (slow.got, quick.got) == (token("a"), token("a") + token("b"))
        made.fan.write(KEEPALIVE)
        assert KEEPALIVE not in slow.got
        quick.read()
        made.finish()
        await ticks()
        assert not first.task.done(), "its client has not had all of it"
        assert not slow.whole
        while not first.task.done():
            slow.read()
            await asyncio.sleep(0)
        quick.read()
        await landed(second)
        assert slow.got == token("a") + token("b") + ENDING
        assert (slow.whole, quick.whole) == (True, True)


async def test_a_slow_client_that_hangs_up_lets_the_engine_go_on() -> None:
    async with flying() as scene:
        first, second = await scene.ask(client=Client(full_after=0)), await scene.ask(stream=False)
        (made,) = scene.made
        made.send(token("a"))
        assert made.flow.paused
        await first.hang_up()
        assert not made.flow.paused
        made.finish()
        await landed(second)


async def test_a_slow_client_that_hangs_up_after_the_end_is_not_waited_for() -> None:
    async with flying() as scene:
        first, second = await scene.ask(client=Client(full_after=0)), await scene.ask()
        scene.made[0].send(token("a"), token("b"))
        scene.made[0].finish()
        await landed(second)
        assert not first.task.done()
        await first.hang_up()
        await cancelled(first.task)


async def test_chunks_go_straight_to_the_only_client_and_from_their_beginning_to_who_comes_later() -> None:
    async with flying() as scene:
        spliced: list[bytes] = []
        client = Client()
        client.splice = spliced.append
        first = await scene.ask(client=client)
        (made,) = scene.made
        made.send(token("a"))
        assert made.fan.splice is not None
        made.fan.splice(framed(token("b")))
        assert spliced == [framed(token("b"))]
        second = await scene.ask()
        made.fan.splice(framed(token("c")))
        made.finish()
        assert isinstance((await landed(second)).answer, Answer)
        await landed(first)
        assert second.client.got == token("a") + token("b") + token("c") + ENDING
        assert client.got == token("a") + token("c") + ENDING
        assert spliced == [framed(token("b"))]


async def test_what_takes_too_much_memory_goes_straight_on_all_the_same() -> None:
    async with flying(max_flight_bytes=300) as scene:
        spliced: list[bytes] = []
        client = Client()
        client.splice = spliced.append
        first = await scene.ask(client=client)
        (made,) = scene.made
        made.send(token("a"))
        assert made.fan.splice is not None
        for _ in range(5):
            made.fan.splice(framed(token("b")))
        assert len(spliced) == 5
        assert made.fan.count == 6
        second = await scene.ask()
        assert len(scene.made) == 2, "who comes now cannot have it all"
        made.finish()
        assert (await landed(first)).answer == "large"
        scene.made[1].finish()
        await landed(second)


# Bounds


async def test_what_takes_too_much_memory_is_not_kept_and_waits_for_the_slowest() -> None:
    async with flying(max_flight_bytes=2 * len(token("a"))) as scene:
        slow, quick = Client(full_after=2 * len(token("a"))), Client()
        first, second = await scene.ask(client=slow), await scene.ask(client=quick)
        other = await scene.ask(stream=False)
        (made,) = scene.made
        made.send(token("a"), token("b"))
        assert not made.flow.paused
        made.send(token("c"))
        assert made.flow.paused, "for all: what the slow one lacks is held"
        late = await scene.ask()
        assert len(scene.made) == 2, "who comes now cannot have it all"
        assert scene.made[1].caller is late
        slow.read()
        assert not made.flow.paused
        made.finish()
        slow.read()
        assert (await landed(first)).answer == "large"
        await landed(second)
        assert slow.got == quick.got == token("a") + token("b") + token("c") + ENDING
        await ticks()
        scene.made[1].finish()
        await landed(late)
        assert len(scene.made) == 3
        assert scene.made[2].caller is other
        scene.made[2].answer()
        await landed(other)


async def test_all_flights_together_have_so_much_memory() -> None:
    async with flying(max_bytes=3 * len(token("a"))) as scene:
        callers = [await scene.ask(key=key) for key in (b"1", b"2")]
        for made in scene.made:
            made.send(token("a"), token("b"))
            assert scene.flights.held_bytes <= 3 * len(token("a"))
        for made in scene.made:
            made.finish()
        assert [(await landed(caller)).answer == "large" for caller in callers] == [True, True]


async def test_only_so_many_wait_for_one_call() -> None:
    with patch.object(flights_module, "MAX_FOLLOWERS", 2):
        async with flying() as scene:
            for _ in range(4):
                await scene.ask()
            assert len(scene.made) == 2
            for made in scene.made:
                made.finish()


# Anything


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_happens_who_stays_gets_a_whole_answer_or_an_error(seed: int) -> None:
    rng = random.Random(seed)
    async with flying(max_flight_bytes=rng.choice([300, 10**6])) as scene:
        left: set[Caller] = set()
        for _ in range(60):
            _step(rng, scene, left)
            for caller in scene.callers:
                if rng.random() < 0.5:
                    caller.client.read()
            await ticks(rng.randrange(4))
        await _all_end(scene)
        for caller in scene.callers:
            if caller not in left and caller.task.exception() is None:
                _has_all(caller)


async def _all_end(scene: Scene) -> None:
    while not all(caller.task.done() for caller in scene.callers):
        for made in scene.made:
            if not made.over and not made.flow.paused:
                _finish(made)
        for caller in scene.callers:
            caller.client.read()
        await asyncio.sleep(0)


def _has_all(caller: Caller) -> None:
    assert caller.client.whole
    got = caller.client.got.replace(KEEPALIVE, b"")
    if caller.asked.stream:
        assert got.endswith(DONE)
        assert got.count(b'"usage"') == caller.asked.wants_usage
    else:
        assert msgspec.json.decode(got)["choices"]


def _step(rng: random.Random, scene: Scene, left: set[Caller]) -> None:
    running = [made for made in scene.made if not made.over]
    match rng.choice(["ask", "ask", "leave", "send", "send", "fail", "finish"]):
        case "ask":
            asked = Asked(rng.random() < 0.7, wants_usage=rng.random() < 0.5)
            client = Client(full_after=rng.choice([None, 0, 300]))
            scene.callers.append(Caller(scene, asked, client, KEY))
        case "leave" if scene.callers:
            caller = rng.choice(scene.callers)
            left.add(caller)
            caller.go()
        case "send" if running:
            made = rng.choice(running)
            if made.caller.asked.stream and not made.flow.paused:
                made.send(rng.choice([token("a"), KEEPALIVE]))
        case "fail" if running:
            made = rng.choice(running)
            if not made.fan.count:
                made.fail(Overloaded("full"))
        case "finish" if running:
            _finish(rng.choice(running))
        case _:
            pass


def _finish(made: Made) -> None:
    if made.caller.asked.stream:
        made.send(token("z"), FINISH, *([TOLD] if made.caller.asked.wants_usage else []), DONE)
        made.end()
    else:
        made.answer()
