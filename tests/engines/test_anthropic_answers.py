"""Whole answers and errors of Anthropic's Messages API."""

from __future__ import annotations

import json

import pytest

from engines.base import EngineProtocolError, EngineRequest, Operation
from tests.engines.anthropic_messages import USAGE, USER, anthropic
from tests.engines.clouds import LIMITS, Json, answer, asked

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
