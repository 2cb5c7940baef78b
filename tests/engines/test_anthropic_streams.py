"""Streams of Anthropic's Messages API, cut anywhere."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from engines.anthropic.answer import MessageReader
from engines.base import EngineDied, EngineProtocolError, EngineRequest, Operation
from engines.sse import MAX_EVENT_BYTES, EventSplitter
from tests.engines.anthropic_messages import START, STOP, TALK, USAGE, USER, anthropic, block, ending, event, named
from tests.engines.clouds import LIMITS, Collector, Json, asked, every_cut, said, stream


def read(data: bytes, *, wants_usage: bool = True) -> list[Json]:
    reader = MessageReader(wants_usage=wants_usage)
    body = reader.feed(data)
    assert reader.finish() == b""
    assert body.endswith(b"data: [DONE]\n\n")
    return said(body)


def test_a_stream_of_thoughts_text_and_tool_calls_is_translated() -> None:
    chunks = read(TALK)
    assert {chunk["id"] for chunk in chunks} == {"msg_1nZdL29xx5MUA1yADyHTEsnR8uuvGzszyY"}
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {
        ("chat.completion.chunk", "claude-sonnet-4-5-20250929")
    }
    assert [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Größe 27"},
        {"reasoning_content": " times 453"},
        {"content": "Okay"},
        {"content": ", let's see ☔"},
        _call(0, id="toolu_1", type="function", function={"name": "get_weather", "arguments": ""}),
        _call(0, function={"arguments": '{"location":'}),
        _call(0, function={"arguments": ' "San Francisco"}'}),
        _call(1, id="toolu_2", type="function", function={"name": "now", "arguments": ""}),
        _call(1, function={"arguments": "{}"}),
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * 10 + ["tool_calls"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == USAGE


def _call(index: int, **fields: Any) -> Json:
    return {"tool_calls": [{"index": index, **fields}]}


def test_usage_is_told_only_to_who_asked() -> None:
    assert all("usage" not in chunk for chunk in read(TALK, wants_usage=False))


def test_a_stream_may_be_cut_at_every_byte() -> None:
    whole = read(TALK)
    for chunk in whole:
        chunk.pop("created")
    for first, second in every_cut(TALK):
        reader = MessageReader(wants_usage=True)
        pieces = said(reader.feed(first) + reader.feed(second))
        for chunk in pieces:
            chunk.pop("created")
        assert pieces == whole
    reader = MessageReader(wants_usage=True)
    single = said(b"".join(reader.feed(TALK[at : at + 1]) for at in range(len(TALK))))
    assert len(single) == len(whole)


def test_events_of_unknown_kinds_and_server_tools_are_passed_over() -> None:
    data = named(
        START,
        event("sparkle", shine=1),
        *block(0, "server_tool_use", {"type": "input_json_delta", "partial_json": '{"q": 1}'}, id="s", name="search"),
        *block(1, "text", {"type": "citations_delta", "citation": {}}, {"type": "novel_delta"}, text="Hi"),
        ending("end_turn", output_tokens=3, input_tokens=30),
        STOP,
        *block(2, "text", {"type": "text_delta", "text": "after the end"}, text=""),
    )
    chunks = read(data)
    assert [c["choices"][0]["delta"] for c in chunks[:-1]] == [
        {"role": "assistant", "content": ""},
        {"content": "Hi"},
        {},
    ]
    assert chunks[-1]["usage"]["prompt_tokens"] == 1130


def test_crlf_between_events_is_no_different() -> None:
    assert len(read(TALK.replace(b"\n", b"\r\n"))) == len(read(TALK))


def test_an_event_has_a_largest_size() -> None:
    with pytest.raises(EngineProtocolError, match="over"):
        EventSplitter().feed(b"data: " + b"x" * MAX_EVENT_BYTES)


def test_several_data_lines_are_one_event() -> None:
    assert EventSplitter().feed(b": comment\n\ndata: a\ndata:b\nid: 1\n\n") == [b"a\nb"]


async def test_a_stream_goes_through_the_engine() -> None:
    async with anthropic(stream(TALK)) as (engine, peer):
        options = {"stream": True, "stream_options": {"include_usage": True}}
        status, body = await asked(engine, {"model": "claude", "messages": [USER], **options})
    assert status == 200
    assert peer.seen[0].json["stream"] is True
    assert said(body)[-1]["usage"] == USAGE


async def test_a_stream_that_ends_too_early_is_a_death() -> None:
    """A08."""
    cut = TALK[: TALK.index(b"event: message_stop")]
    async with anthropic(stream(cut)) as (engine, _):
        with pytest.raises(EngineDied):
            await asked(engine, {"model": "claude", "messages": [USER], "stream": True})


async def test_a_stream_that_cannot_be_read_breaks_the_protocol() -> None:
    async with anthropic(stream(named(START) + b"data: {oops\n\n")) as (engine, _):
        with pytest.raises(EngineProtocolError):
            await asked(engine, {"model": "claude", "messages": [USER], "stream": True})


@pytest.mark.parametrize(
    ("kind", "code"), [("overloaded_error", 503), ("rate_limit_error", 429), ("api_error", 500), ("novel_error", 500)]
)
def test_an_error_in_a_stream_ends_it_with_the_status_it_stands_for(kind: str, code: int) -> None:
    reader = MessageReader(wants_usage=True)
    broken = event("error", error={"type": kind, "message": "Overloaded"})
    chunks = said(reader.feed(named(START, broken, *block(0, "text", text="no more"))))
    assert chunks == [{"error": {"message": "Overloaded", "type": kind, "param": None, "code": code}}]


async def test_who_hangs_up_frees_the_peer() -> None:
    """A01."""
    async with anthropic(stream(named(START, *block(0, "text", text="So")), ends=False)) as (engine, peer):
        body = json.dumps({"model": "claude", "messages": [USER], "stream": True}).encode()
        response = await engine.send(EngineRequest(Operation.CHAT, body, stream=True), LIMITS)
        collector = Collector()
        response.subscribe(collector)
        await collector.arrived.wait()
        response.abort()
        async with asyncio.timeout(1):
            await peer.hung_up.wait()
