"""Requests in the form of Anthropic's Messages API, and what it cannot do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engines.anthropic.ask import ask
from engines.base import Operation
from tests.engines.anthropic_messages import USER, anthropic
from tests.engines.clouds import Json, answer, asked

PIXEL = "iVBORw0KGgo="


def wanted(**fields: Any) -> Json:
    """The request in Anthropic's form."""
    body = {"model": "claude", "messages": [USER], **fields}
    found: Json = json.loads(ask(json.dumps(body).encode(), 4096).body)
    return found


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
