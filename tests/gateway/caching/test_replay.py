"""Kept answers on their way to a client: at once or at a pace, and no further than it reads."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from cache.answer import Answer, assemble
from gateway.caching.playback import USUAL_GAP_S, Asked, play, play_slowly
from tests.gateway.caching.clients import DONE, FINISH, Client, token
from tests.harness.virtual import LoopClock, in_virtual_time

BODY = token("a") + token("b") + token("c") + FINISH + DONE


def kept(body: bytes = BODY, gap_s: float = 0.0, operation: str = "chat") -> Answer:
    answer = assemble(operation, body, True, gap_s=gap_s)
    assert isinstance(answer, Answer)
    return answer


def contents(got: bytes) -> list[str]:
    events = [msgspec.json.decode(event[6:]) for event in got.split(b"\n\n") if event.startswith(b"data: {")]
    return [event["choices"][0]["delta"].get("content", "") for event in events]


async def test_a_stream_is_sent_whole_with_its_heads_lines() -> None:
    client = Client()
    play(kept(), client, Asked(stream=True, lines=b"age: 1\r\n"))
    assert (client.status, client.length, client.whole) == (200, None, True)
    assert client.head.startswith(b"content-type: text/event-stream")
    assert client.head.endswith(b"age: 1\r\n")
    assert contents(client.got) == ["a", "b", "c", ""]
    assert client.got.endswith(DONE)


async def test_a_stream_whose_head_is_out_goes_on() -> None:
    client = Client()
    client.start(200, b"")
    play(kept(), client, Asked(stream=True))
    assert contents(client.got) == ["a", "b", "c", ""]


async def test_a_whole_answer_has_its_length_and_the_name_asked_for() -> None:
    client = Client()
    play(kept(), client, Asked(stream=False, model="alias", lines=b"age: 1\r\n"))
    assert client.length == len(client.got)
    assert client.head == b"content-type: application/json\r\nage: 1\r\n"
    read = msgspec.json.decode(client.got)
    assert (read["model"], read["choices"][0]["message"]["content"]) == ("alias", "abc")


@pytest.mark.parametrize(("operation", "start"), [("chat", "chatcmpl-"), ("completions", "cmpl-")])
async def test_each_answer_has_an_id_of_its_own(operation: str, start: str) -> None:
    ids = set()
    for _ in range(2):
        client = Client()
        play(kept(operation=operation), client, Asked(stream=False))
        ids.add(msgspec.json.decode(client.got)["id"])
    assert len(ids) == 2
    assert all(one.startswith(start) for one in ids)


@pytest.mark.parametrize(
    ("recorded_s", "wanted_s", "gap_s"),
    [(0.25, None, 0.25), (0.0, None, USUAL_GAP_S), (0.25, 0.5, 0.5), (0.25, 0.0, 0.0)],
)
def test_a_stream_comes_at_the_pace_at_which_it_came_or_the_one_wanted(
    recorded_s: float, wanted_s: float | None, gap_s: float
) -> None:
    async def main() -> None:
        client, clock = Client(), LoopClock()
        began_s = clock.monotonic()
        playing = asyncio.get_running_loop().create_task(
            play_slowly(kept(gap_s=recorded_s), client, Asked(stream=True), clock, wanted_s)
        )
        for place, said in enumerate("abc"):
            await client.has(b'"content":"%b"' % said.encode())
            assert clock.monotonic() - began_s == pytest.approx(place * gap_s)
        await playing
        assert clock.monotonic() - began_s == pytest.approx(3 * gap_s), "[DONE] comes with the last event"
        assert client.whole
        assert client.flow is None

    in_virtual_time(main)


async def test_a_whole_answer_needs_no_pace() -> None:
    client = Client()
    await play_slowly(kept(gap_s=100), client, Asked(stream=False), LoopClock())
    assert client.whole


async def test_no_more_is_sent_than_the_client_reads() -> None:
    client = Client(full_after=0)
    playing = asyncio.get_running_loop().create_task(play_slowly(kept(), client, Asked(stream=True), LoopClock(), 0.0))
    await client.has(b'"content":"a"')
    for _ in range(5):
        await asyncio.sleep(0)
    assert contents(client.got) == ["a"]
    client.read()
    await client.has(b'"content":"b"')
    assert contents(client.got) == ["a", "b"]
    while not playing.done():
        client.read()
        await asyncio.sleep(0)
    assert client.got.endswith(DONE)


async def test_a_client_that_hangs_up_on_the_way_leaves_nothing_behind() -> None:
    client = Client()
    playing = asyncio.get_running_loop().create_task(play_slowly(kept(), client, Asked(stream=True), LoopClock(), 60.0))
    await client.has(b'"content":"a"')
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    assert contents(client.got) == ["a"]
    assert client.flow is None
