"""What Converse and ConverseStream answer, as OpenAI's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer
from botocore.parsers import EventStreamJSONParser

from engines.adapter import DONE
from engines.aws.bedrock import BedrockTranslator
from engines.base import EngineDied, EngineProtocolError
from tests.engines.aws.conversation import MODEL, Json, chat, function, shape
from tests.engines.aws.wire import event, exception, failure, message

USAGE = {
    "inputTokens": 10,
    "outputTokens": 4,
    "totalTokens": 14,
    "cacheReadInputTokens": 90,
    "cacheWriteInputTokens": 5,
}
COUNTED = {
    "prompt_tokens": 105,
    "completion_tokens": 4,
    "total_tokens": 109,
    "prompt_tokens_details": {"cached_tokens": 90, "cache_creation_tokens": 5},
}


def whole(*blocks: Json, **fields: Any) -> Json:
    answer = {
        "output": {"message": {"role": "assistant", "content": list(blocks)}},
        "stopReason": "end_turn",
        "usage": USAGE,
        "metrics": {"latencyMs": 12},
        **fields,
    }
    found: Json = json.loads(BedrockTranslator().begin(chat()).whole(json.dumps(answer).encode()))
    return found


def streamed(*pieces: bytes, wants_usage: bool = True) -> bytes:
    """A whole stream as the reader tells it."""
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    reader = BedrockTranslator().begin(chat(stream=True, **options)).stream()
    return b"".join(reader.feed(piece) for piece in pieces) + reader.finish()


def chunks(stream: bytes) -> list[Json]:
    events = stream.removesuffix(DONE).split(b"\n\n")
    return [json.loads(one.removeprefix(b"data: ")) for one in events if one]


def delta(index: int, **fields: Any) -> bytes:
    return event("contentBlockDelta", contentBlockIndex=index, delta=fields)


START = event("messageStart", role="assistant")
STOP = event("messageStop", stopReason="end_turn")
COUNT = event("metadata", usage=USAGE, metrics={"latencyMs": 3})
TEXT = (
    START + delta(0, text="Hal") + delta(0, text="lö") + event("contentBlockStop", contentBlockIndex=0) + STOP + COUNT
)


def tool(index: int, name: str, *inputs: str, **fields: Any) -> bytes:
    start = {"toolUse": {"toolUseId": f"call_{index}", "name": name, **fields}}
    return (
        event("contentBlockStart", contentBlockIndex=index, start=start)
        + b"".join(delta(index, toolUse={"input": text}) for text in inputs)
        + event("contentBlockStop", contentBlockIndex=index)
    )


def test_a_whole_answer_is_a_chat_completion() -> None:
    answer = whole({"text": "Hal"}, {"text": "lö"})
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert answer == {
        "object": "chat.completion",
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hallö"}, "finish_reason": "stop"}],
        "usage": COUNTED,
    }


def test_whole_tool_calls_have_their_arguments_as_text() -> None:
    use = {"toolUse": {"toolUseId": "call_1", "name": "weather", "input": {"city": "Köln"}}}
    served = {"toolUse": {"toolUseId": "x", "name": "search", "input": {}, "type": "server_tool_use"}}
    said = whole(served, use, stopReason="tool_use")["choices"][0]
    assert said["finish_reason"] == "tool_calls"
    (call,) = said["message"]["tool_calls"]
    assert said["message"]["content"] is None
    assert (call["id"], call["type"], call["function"]["name"]) == ("call_1", "function", "weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Köln"}


def test_reasoning_and_citations_are_kept() -> None:
    thought = {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}}
    hidden = {"reasoningContent": {"redactedContent": "AAAA"}}
    cited = {"citationsContent": {"content": [{"text": "as X says"}], "citations": []}}
    said = whole(thought, hidden, cited)["choices"][0]["message"]
    assert said == {"role": "assistant", "content": "as X says", "reasoning_content": "hm"}


def test_an_empty_answer_has_empty_content() -> None:
    assert whole()["choices"][0]["message"] == {"role": "assistant", "content": ""}
    assert "usage" not in whole(usage=None)


REASONS = [
    ("end_turn", "stop"),
    ("stop_sequence", "stop"),
    ("max_tokens", "length"),
    ("model_context_window_exceeded", "length"),
    ("tool_use", "tool_calls"),
    ("guardrail_intervened", "content_filter"),
    ("content_filtered", "content_filter"),
    ("malformed_model_output", "stop"),
    ("something_new", "stop"),
]


@pytest.mark.parametrize(("told", "reason"), REASONS)
def test_the_reason_of_the_end_is_told(told: str, reason: str) -> None:
    assert whole({"text": "x"}, stopReason=told)["choices"][0]["finish_reason"] == reason
    found = chunks(streamed(START + event("messageStop", stopReason=told)))
    assert found[-1]["choices"][0]["finish_reason"] == reason


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"output": {}}', b'{"output": {"message": {"content": 1}}}'])
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(EngineProtocolError, match="Converse"):
        BedrockTranslator().begin(chat()).whole(body)


def test_the_frames_of_these_tests_are_what_botocore_takes_for_converse_stream() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(TEXT + tool(1, "f", "{}"))
    parse = EventStreamJSONParser().parse
    found = [parse(one.to_response_dict(), shape("ConverseStreamOutput")) for one in buffer]
    assert found[1]["contentBlockDelta"]["delta"] == {"text": "Hal"}
    assert found[5]["metadata"]["usage"] == USAGE


def test_a_stream_is_told_in_chunks() -> None:
    stream = streamed(TEXT)
    found = chunks(stream)
    assert stream.endswith(DONE) and stream.count(DONE) == 1
    assert {(one["object"], one["model"]) for one in found} == {("chat.completion.chunk", MODEL)}
    assert len({(one["id"], one["created"]) for one in found}) == 1
    choices = [one["choices"][0] for one in found[:-1]]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "Hal"},
        {"content": "lö"},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]
    assert (found[-1]["choices"], found[-1]["usage"]) == ([], COUNTED)


def test_usage_is_not_told_unless_it_was_asked_for() -> None:
    assert b"usage" not in streamed(TEXT, wants_usage=False)


@pytest.mark.parametrize("at", range(len(TEXT)))
def test_a_stream_may_be_cut_at_every_byte(at: int) -> None:
    cut, uncut = chunks(streamed(TEXT[:at], TEXT[at:])), chunks(streamed(TEXT))
    assert [one["choices"] for one in cut] == [one["choices"] for one in uncut]


def test_tool_calls_come_in_pieces() -> None:
    stream = START + delta(0, text="let me see") + tool(1, "weather", '{"city":', '"Köln"}') + tool(2, "now")
    found = chunks(streamed(stream + event("messageStop", stopReason="tool_use")))
    calls = [one for chunk in found for one in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert calls == [
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city":'}},
        {"index": 0, "function": {"arguments": '"Köln"}'}},
        {"index": 1, "id": "call_2", "type": "function", "function": {"name": "now", "arguments": ""}},
        {"index": 1, "function": {"arguments": "{}"}},
    ]
    assert found[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_tools_that_bedrock_runs_itself_are_no_calls() -> None:
    stream = START + tool(0, "search", '{"q":1}', type="server_tool_use") + delta(1, text="found") + STOP
    assert b"tool_calls" not in streamed(stream)


def test_reasoning_comes_in_pieces_and_what_is_unknown_not_at_all() -> None:
    stream = (
        message({":message-type": "event", ":event-type": "initial-response"}, b"{}")
        + START
        + delta(0, reasoningContent={"text": "hm"})
        + delta(0, reasoningContent={"signature": "s"})
        + delta(0, citation={"title": "t"})
        + event("contentBlockStart", contentBlockIndex=1, start={"image": {"format": "png"}})
        + event("somethingNew", x=1)
        + STOP
    )
    deltas = [one["choices"][0]["delta"] for one in chunks(streamed(stream))]
    assert deltas == [{"role": "assistant", "content": ""}, {"reasoning_content": "hm"}, {}]


@pytest.mark.parametrize(
    ("failed", "status", "text"),
    [
        (exception("throttlingException", message="slow down"), 429, "slow down"),
        (exception("serviceUnavailableException", message="full"), 503, "full"),
        (exception("internalServerException", message="oh"), 500, "oh"),
        (exception("validationException", message="bad"), 400, "bad"),
        (exception("modelStreamErrorException", originalMessage="died", originalStatusCode=500), 502, "died"),
        (exception("modelTimeoutException", Message="late"), 504, "late"),
        (exception("somethingNewException"), 502, "somethingNewException"),
        (failure("InternalFailure", "it broke"), 500, "it broke"),
        (message({":message-type": "error", ":error-code": "Odd"}, b"\xff"), 502, "Odd"),
    ],
)
def test_an_error_in_a_stream_is_its_last_event(failed: bytes, status: int, text: str) -> None:
    stream = streamed(START + delta(0, text="a") + failed + delta(0, text="b"), delta(0, text="c"))
    found = chunks(stream)
    assert len(found) == 3 and DONE not in stream
    error = found[-1]["error"]
    assert (error["code"], error["message"]) == (status, text)


@pytest.mark.parametrize("end", [b"", START, START + delta(0, text="a"), TEXT[:-1]])
def test_an_end_before_the_message_is_complete_is_a_death(end: bytes) -> None:
    with pytest.raises(EngineDied):
        streamed(end)


@pytest.mark.parametrize("payload", [b"", b"{", b'{"contentBlockIndex": "x"}'])
def test_an_event_that_cannot_be_read_is_a_broken_protocol(payload: bytes) -> None:
    broken = message({":message-type": "event", ":event-type": "contentBlockDelta"}, payload)
    with pytest.raises(EngineProtocolError, match="contentBlockDelta"):
        streamed(START + broken)


@pytest.mark.parametrize(
    ("status", "name", "body", "told"),
    [
        (429, "ThrottlingException", {"message": "slow down"}, 429),
        (400, "ServiceQuotaExceededException", {"message": "quota"}, 503),
        (429, "ModelNotReadyException", {"message": "loading"}, 503),
        (503, "ServiceUnavailableException", {"message": "full"}, 503),
        (400, "ValidationException", {"message": "bad"}, 400),
        (403, "AccessDeniedException", {"Message": "you may not"}, 403),
        (400, "ExpiredTokenException", {"message": "old"}, 403),
        (408, "ModelTimeoutException", {"message": "late"}, 504),
        (424, "ModelErrorException", {"message": "died"}, 502),
        (500, "InternalServerException:http://internal.amazon.com/coral/", {"message": "oh"}, 500),
        (418, "TeapotException", {}, 418),
    ],
)
def test_a_refusal_is_told_by_its_name(status: int, name: str, body: Json, told: int) -> None:
    exchange = BedrockTranslator().begin(chat(tools=[function()]))
    found, text = exchange.refusal(status, {b"x-amzn-errortype": name.encode()}, json.dumps(body).encode())
    error = json.loads(text)["error"]
    assert found == told
    assert error["message"] == (next(iter(body.values())) if body else name)
    assert error["type"] == (
        "rate_limit_error" if told == 429 else "invalid_request_error" if told < 500 else "server_error"
    )


def test_a_refusal_without_its_header_is_told_by_its_body_or_its_status() -> None:
    refuse = BedrockTranslator().begin(chat()).refusal
    assert refuse(400, {}, b'{"__type": "com.amazon.coral#ThrottlingException", "message": "x"}')[0] == 429
    status, body = refuse(502, {}, b"<html>")
    assert status == 502 and json.loads(body)["error"]["message"] == "status 502"


@pytest.mark.parametrize(
    "text",
    [
        "The model returned the following errors: Input is too long for requested model.",
        "prompt is too long: 201234 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 1 + 2 > 3",
    ],
)
def test_a_prompt_that_does_not_fit_is_told_by_its_code(text: str) -> None:
    headers = {b"x-amzn-errortype": b"ValidationException"}
    status, body = BedrockTranslator().begin(chat()).refusal(400, headers, json.dumps({"message": text}).encode())
    assert status == 400 and json.loads(body)["error"]["code"] == "context_length_exceeded"


def test_a_model_that_does_not_exist_is_called_a_model() -> None:
    refuse = BedrockTranslator().begin(chat()).refusal
    headers = {b"x-amzn-errortype": b"ResourceNotFoundException"}
    status, body = refuse(404, headers, b'{"message": "Could not resolve it"}')
    assert status == 404 and json.loads(body)["error"]["message"] == "model not found: Could not resolve it"
    assert b"not found: " not in refuse(404, headers, b'{"message": "The model is not there"}')[1]
