"""Anthropic's Messages API: requests and answers translated, streams cut anywhere, errors of every kind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engines.adapter import AdapterEngine
from engines.anthropic import AnthropicTranslator
from engines.anthropic.answer import MessageReader
from engines.anthropic.ask import ask
from engines.base import EngineDied, EngineProtocolError, EngineRequest, Operation
from engines.http import Endpoint
from engines.sse import MAX_EVENT_BYTES, EventSplitter
from tests.engines.clouds import (
    LIMITS,
    Cloud,
    Collector,
    Json,
    answer,
    asked,
    cloud,
    every_cut,
    said,
    stream,
)

USER = {"role": "user", "content": "Hi"}
PIXEL = "iVBORw0KGgo="


def named(*pairs: tuple[str, Json]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps(data).encode()) for kind, data in pairs)


def event(kind: str, **data: Any) -> tuple[str, Json]:
    return kind, {"type": kind, **data}


START = event(
    "message_start",
    message={
        "id": "msg_1nZdL29xx5MUA1yADyHTEsnR8uuvGzszyY",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "claude-sonnet-4-5-20250929",
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 25,
            "cache_creation_input_tokens": 100,
            "cache_read_input_tokens": 1000,
            "output_tokens": 1,
        },
    },
)
STOP = event("message_stop")


def block(index: int, kind: str, *deltas: Json, **fields: Any) -> list[tuple[str, Json]]:
    return [
        event("content_block_start", index=index, content_block={"type": kind, **fields}),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def ending(stop_reason: str, **usage: Any) -> tuple[str, Json]:
    return event("message_delta", delta={"stop_reason": stop_reason, "stop_sequence": None}, usage=usage)


TALK = named(
    START,
    event("ping"),
    *block(
        0,
        "thinking",
        {"type": "thinking_delta", "thinking": "Größe 27"},
        {"type": "thinking_delta", "thinking": " times 453"},
        {"type": "signature_delta", "signature": "EqQBCgIYAhIM"},
        thinking="",
        signature="",
    ),
    *block(
        1, "text", {"type": "text_delta", "text": "Okay"}, {"type": "text_delta", "text": ", let's see ☔"}, text=""
    ),
    *block(
        2,
        "tool_use",
        {"type": "input_json_delta", "partial_json": ""},
        {"type": "input_json_delta", "partial_json": '{"location":'},
        {"type": "input_json_delta", "partial_json": ' "San Francisco"}'},
        id="toolu_1",
        name="get_weather",
        input={},
    ),
    *block(3, "tool_use", {"type": "input_json_delta", "partial_json": ""}, id="toolu_2", name="now", input={}),
    ending("tool_use", output_tokens=89, output_tokens_details={"thinking_tokens": 12}),
    STOP,
)
USAGE = {
    "prompt_tokens": 1125,
    "completion_tokens": 89,
    "total_tokens": 1214,
    "prompt_tokens_details": {"cached_tokens": 1000, "cache_creation_tokens": 100},
    "completion_tokens_details": {"reasoning_tokens": 12},
}


def wanted(**fields: Any) -> Json:
    """The request in Anthropic's form."""
    body = {"model": "claude", "messages": [USER], **fields}
    found: Json = json.loads(ask(json.dumps(body).encode(), 4096).body)
    return found


@asynccontextmanager
async def anthropic(*answers: bytes) -> AsyncIterator[tuple[AdapterEngine, Cloud]]:
    async with cloud(*answers) as peer:
        endpoint = Endpoint("e", peer.url, {"x-api-key": "k", "anthropic-version": "2023-06-01"})
        engine = AdapterEngine(endpoint, AnthropicTranslator(4096))
        try:
            yield engine, peer
        finally:
            await engine.aclose()


# Requests


def test_a_plain_request_gets_the_required_limit() -> None:
    turn = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    assert wanted() == {"model": "claude", "max_tokens": 4096, "messages": [turn]}
    assert wanted(max_tokens=5)["max_tokens"] == 5
    assert wanted(max_tokens=0)["max_tokens"] == 0
    assert wanted(max_completion_tokens=7, max_tokens=None)["max_tokens"] == 7


def test_system_and_developer_messages_stand_apart_from_the_talk() -> None:
    cached = {"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}
    body = wanted(
        messages=[{"role": "system", "content": "Be brief."}, {"role": "developer", "content": [cached]}, USER]
    )
    assert body["system"] == [{"type": "text", "text": "Be brief."}, cached]
    assert [turn["role"] for turn in body["messages"]] == ["user"]


def test_images_come_as_data_or_as_links_and_files_as_documents() -> None:
    content = [
        {"type": "text", "text": ""},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE"}},
    ]
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}
    assert wanted(messages=[{"role": "user", "content": content}])["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": pdf},
    ]


def test_parallel_tool_calls_and_their_results_stand_in_one_turn_each() -> None:
    calls = [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1.0}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": ""}},
    ]
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": "one"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "two"}]},
        {"role": "user", "content": "Go on"},
    ]
    assert wanted(messages=messages)["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1.0}},
                {"type": "tool_use", "id": "b", "name": "g", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "one"}]},
                {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "two"}]},
                {"type": "text", "text": "Go on"},
            ],
        },
    ]


FUNCTION = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


def test_tools_keep_their_schemas() -> None:
    bare = {"type": "function", "function": {"name": "g", "strict": True}, "cache_control": {"type": "ephemeral"}}
    assert wanted(tools=[FUNCTION, bare])["tools"] == [
        {"name": "f", "description": "d", "input_schema": {"type": "object"}},
        {
            "name": "g",
            "input_schema": {"type": "object", "properties": {}},
            "strict": True,
            "cache_control": {"type": "ephemeral"},
        },
    ]


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"parallel_tool_calls": True}, None),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False},
            {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        ),
    ],
)
def test_the_choice_of_a_tool_is_translated(fields: Json, choice: Json | None) -> None:
    assert wanted(tools=[FUNCTION], **fields).get("tool_choice") == choice
    assert "tool_choice" not in wanted(**fields)


def test_sampling_formats_and_effort_are_translated() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    body = wanted(
        stop="END",
        temperature=1.7,
        top_p=0.9,
        stream=True,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}},
        reasoning_effort="minimal",
    )
    assert body["stop_sequences"] == ["END"]
    assert (body["temperature"], body["top_p"], body["stream"]) == (1.0, 0.9, True)
    assert body["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": schema}}
    assert wanted(stop=["a", "b"])["stop_sequences"] == ["a", "b"]
    assert "output_config" not in wanted(response_format={"type": "text"}, reasoning_effort="none")


def test_hints_are_left_out_and_fields_that_only_anthropic_knows_pass_as_they_are() -> None:
    """A24."""
    thinking = {"type": "enabled", "budget_tokens": 1024}
    body = wanted(
        thinking=thinking, top_k=5, container=None, seed=1, user="u", n=1, logprobs=False, metadata={"a": "b"}
    )
    assert body["thinking"] == thinking
    assert body["top_k"] == 5
    assert set(body) == {"model", "max_tokens", "messages", "thinking", "top_k"}


@pytest.mark.parametrize(
    ("fields", "param", "said_"),
    [
        ({"n": 2}, "n", "`n`"),
        ({"logprobs": True}, "logprobs", "`logprobs`"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "`logit_bias`"),
        ({"presence_penalty": 0.5}, "presence_penalty", "`presence_penalty`"),
        ({"modalities": ["text", "audio"]}, "modalities", "`modalities`"),
        ({"functions": [{"name": "f"}]}, "functions", "`functions`"),
        ({"response_format": {"type": "json_object"}}, "response_format", "json_object"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools", "custom"),
        ({"tools": [FUNCTION], "tool_choice": "maybe"}, "tool_choice", "required"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools"}}, "tool_choice", "function"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages", "function"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages", "input_audio"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://x"}}]}]},
            "messages",
            "data URL",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "JVBE"}}]}]},
            "messages",
            "file_data",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1"}}]}]},
            "messages",
            "arguments",
        ),
        ({"messages": [{"role": "user", "content": 5}]}, None, "$.messages[0].content"),
    ],
)
async def test_what_anthropic_cannot_do_is_refused_before_it_is_sent(
    fields: Json, param: str | None, said_: str
) -> None:
    async with anthropic(answer({})) as (engine, peer):
        status, body = await asked(engine, {"model": "claude", "messages": [USER], **fields})
    error = json.loads(body)["error"]
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert said_ in error["message"]
    assert not peer.seen


async def test_only_chat_is_offered() -> None:
    async with anthropic(answer({})) as (engine, _):
        status, body = await asked(engine, {"model": "claude", "input": "x"}, Operation.EMBEDDINGS)
    assert (status, json.loads(body)["error"]["code"]) == (400, "unsupported_operation")


# Whole answers


async def test_a_whole_answer_is_a_chat_completion() -> None:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "Let me see", "citations": None},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "usage": {
            "input_tokens": 25,
            "cache_creation_input_tokens": 100,
            "cache_read_input_tokens": 1000,
            "output_tokens": 89,
            "output_tokens_details": {"thinking_tokens": 12},
        },
    }
    async with anthropic(answer(message)) as (engine, peer):
        status, body = await asked(engine, {"model": "claude", "messages": [USER]})
    seen = peer.seen[0]
    assert seen.line == "POST /v1/messages HTTP/1.1"
    assert (seen.headers["x-api-key"], seen.headers["anthropic-version"]) == ("k", "2023-06-01")
    found = json.loads(body)
    assert status == 200
    assert found.pop("created") > 1_700_000_000
    assert found == {
        "id": "msg_1",
        "object": "chat.completion",
        "model": "claude-x",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Let me see",
                    "reasoning_content": "Hm.",
                    "refusal": None,
                    "tool_calls": [
                        {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": USAGE,
    }


@pytest.mark.parametrize(
    ("stop_reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
        (None, "stop"),
    ],
)
async def test_every_stop_reason_has_a_finish_reason(stop_reason: str | None, finish: str) -> None:
    message: Json = {"type": "message", "content": [], "stop_reason": stop_reason}
    async with anthropic(answer(message)) as (engine, _):
        _, body = await asked(engine, {"model": "claude", "messages": [USER]})
    choice = json.loads(body)["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == (finish, "")


@pytest.mark.parametrize("body", [b"<html>", b"[]", {"type": "completion"}, {"type": "message", "content": 5}])
async def test_a_whole_answer_that_is_no_message_breaks_the_protocol(body: object) -> None:
    async with anthropic(answer(body)) as (engine, _):
        with pytest.raises(EngineProtocolError):
            await asked(engine, {"model": "claude", "messages": [USER]})


async def test_an_error_with_status_200_stays_an_error() -> None:
    failure = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    async with anthropic(answer(failure)) as (engine, _):
        _, body = await asked(engine, {"model": "claude", "messages": [USER]})
    assert json.loads(body)["error"]["code"] == 503


# Streams


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


# Errors


@pytest.mark.parametrize(
    ("status", "kind", "message", "becomes", "code"),
    [
        (400, "invalid_request_error", "max_tokens: too many", 400, "invalid_request_error"),
        (400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum", 400, "context_length_exceeded"),
        (400, "invalid_request_error", "Your credit balance is too low", 402, "invalid_request_error"),
        (401, "authentication_error", "invalid x-api-key", 401, "authentication_error"),
        (403, "permission_error", "no", 403, "permission_error"),
        (404, "not_found_error", "model: claude", 404, "not_found_error"),
        (413, "request_too_large", "32 MB", 413, "request_too_large"),
        (429, "rate_limit_error", "slow down", 429, "rate_limit_error"),
        (500, "api_error", "oops", 500, "api_error"),
        (529, "overloaded_error", "Overloaded", 503, "overloaded_error"),
        (418, "novel_error", "tea", 418, "novel_error"),
    ],
)
async def test_every_error_has_its_status(status: int, kind: str, message: str, becomes: int, code: str) -> None:
    """A09."""
    failure = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    async with anthropic(answer(failure, status, retry_after="7")) as (engine, _):
        request = EngineRequest(Operation.CHAT, json.dumps({"model": "c", "messages": [USER]}).encode())
        response = await engine.send(request, LIMITS)
        error = json.loads(await response.read(1 << 20))["error"]
    assert (response.status, error["code"], error["message"]) == (becomes, code, message)
    assert response.headers[b"retry-after"] == b"7"


@pytest.mark.parametrize(("status", "becomes"), [(502, 502), (529, 503)])
async def test_an_error_page_keeps_its_status(status: int, becomes: int) -> None:
    async with anthropic(answer(b"<html>Bad Gateway</html>", status)) as (engine, _):
        found, body = await asked(engine, {"model": "claude", "messages": [USER], "stream": True})
    assert found == becomes
    assert json.loads(body)["error"]["type"] == "api_error"
