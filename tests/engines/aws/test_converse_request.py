"""A chat of OpenAI's as a request of Bedrock Converse."""

from __future__ import annotations

from typing import Any

import pytest

from engines.aws.bedrock import BedrockTranslator
from engines.base import Operation
from tests.engines.aws.conversation import MODEL, Json, chat, converse, function, refused, request, said, user

PNG = "iVBORw0KGgo="
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
USE = {"toolUse": {"toolUseId": "call_1", "name": "weather", "input": {"city": "Köln"}}}


def test_the_least_chat_is_one_message() -> None:
    assert converse(user("hello")) == {"messages": [said("hello")]}


def test_the_model_stands_in_the_path_and_nowhere_else() -> None:
    wire = BedrockTranslator().begin(chat()).wire
    assert wire.path == "/model/eu.anthropic.claude-sonnet-4-v1%3A0/converse"
    assert b"model" not in wire.body
    assert BedrockTranslator().begin(chat(stream=True)).wire.path.endswith("/converse-stream")


def test_an_arn_is_one_part_of_the_path() -> None:
    arn = "arn:aws:bedrock:eu-central-1:123456789012:application-inference-profile/a1b2"
    wire = BedrockTranslator().begin(request(messages=[user("x")], model=arn)).wire
    assert wire.path.count("/") == 3 and wire.path.startswith("/model/arn%3Aaws")


def test_system_messages_stand_apart() -> None:
    body = converse(
        {"role": "system", "content": "be brief"},
        user("hello"),
        {"role": "developer", "content": [{"type": "text", "text": "and kind"}]},
    )
    assert body == {"system": [{"text": "be brief"}, {"text": "and kind"}], "messages": [said("hello")]}


def test_turns_of_one_role_become_one() -> None:
    body = converse(user("a"), user("b"), {"role": "assistant", "content": "c"}, user("d"))
    assert body["messages"] == [
        {"role": "user", "content": [{"text": "a"}, {"text": "b"}]},
        {"role": "assistant", "content": [{"text": "c"}]},
        said("d"),
    ]


def test_empty_text_is_left_out() -> None:
    body = converse(
        user([{"type": "text", "text": ""}, {"type": "text", "text": "x"}]), {"role": "assistant", "content": ""}
    )
    assert body["messages"] == [said("x")]


def test_a_refusal_said_before_is_text() -> None:
    told = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    assert converse(user("x"), told)["messages"][1] == {"role": "assistant", "content": [{"text": "no"}]}


@pytest.mark.parametrize(
    ("kind", "name"), [("png", "png"), ("jpeg", "jpeg"), ("jpg", "jpeg"), ("gif", "gif"), ("webp", "webp")]
)
@pytest.mark.parametrize("plain", [False, True])
def test_an_image_comes_as_a_data_url(kind: str, name: str, plain: bool) -> None:
    url: Any = f"data:image/{kind};base64,{PNG}"
    part = {"type": "image_url", "image_url": url if plain else {"url": url, "detail": "high"}}
    body = converse(user([{"type": "text", "text": "what is it?"}, part]))
    image = {"image": {"format": name, "source": {"bytes": PNG}}}
    assert body["messages"] == [{"role": "user", "content": [{"text": "what is it?"}, image]}]


@pytest.mark.parametrize(
    "url",
    ["https://example.com/a.png", "data:image/tiff;base64,AAAA", "data:image/png,AAAA", "data:image/png;base64", ""],
)
def test_an_image_that_is_elsewhere_is_refused(url: str) -> None:
    error = refused(chat(user([{"type": "image_url", "image_url": {"url": url}}])))
    assert error.param == "messages" and "data URL" in str(error)


@pytest.mark.parametrize(
    "message",
    [
        user([{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]),
        user([{"type": "file", "file": {"file_id": "x"}}]),
        user([{"type": "image_url"}]),
        {"role": "system", "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}]},
        {"role": "function", "name": "f", "content": "1"},
        {"role": "tool", "content": "1"},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "[1]"}}]},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]},
    ],
)
def test_what_converse_has_no_words_for_is_refused(message: Json) -> None:
    assert refused(chat(message)).param == "messages"


def test_tool_calls_and_their_results_are_told() -> None:
    body = converse(
        user("weather?"),
        {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "call_2"}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sun"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "rain"}]},
        user("and now?"),
        tools=[function()],
    )
    second = {"toolUse": {**USE["toolUse"], "toolUseId": "call_2"}}
    assert body["messages"][1:] == [
        {"role": "assistant", "content": [USE, second]},
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "call_1", "content": [{"text": "sun"}]}},
                {"toolResult": {"toolUseId": "call_2", "content": [{"text": "rain"}]}},
                {"text": "and now?"},
            ],
        },
    ]


def test_a_tool_may_answer_nothing_or_an_image() -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    body = converse(
        {"role": "tool", "tool_call_id": "a", "content": ""},
        {"role": "tool", "tool_call_id": "b", "content": [image]},
        tools=[function()],
    )
    first, second = body["messages"][0]["content"]
    assert first == {"toolResult": {"toolUseId": "a", "content": []}}
    assert second["toolResult"]["content"] == [{"image": {"format": "png", "source": {"bytes": PNG}}}]


def test_a_call_without_arguments_has_an_empty_input() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}
    body = converse({"role": "assistant", "tool_calls": [call]}, tools=[function()])
    assert body["messages"][0]["content"][0]["toolUse"]["input"] == {}


def test_tools_are_told_with_their_schemas() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    body = converse(
        tools=[function(description="Weather", parameters=schema, strict=True), function("now", description="")]
    )
    assert body["toolConfig"] == {
        "tools": [
            {
                "toolSpec": {
                    "name": "weather",
                    "description": "Weather",
                    "inputSchema": {"json": schema},
                    "strict": True,
                }
            },
            {"toolSpec": {"name": "now", "inputSchema": {"json": {"type": "object", "properties": {}}}}},
        ]
    }


@pytest.mark.parametrize(
    ("choice", "told"),
    [("auto", {"auto": {}}), ("required", {"any": {}}), (function(), {"tool": {"name": "weather"}}), (None, None)],
)
def test_the_choice_of_a_tool_is_told(choice: object, told: object) -> None:
    assert converse(tools=[function()], tool_choice=choice)["toolConfig"].get("toolChoice") == told


def test_no_tool_may_be_chosen_by_telling_of_none() -> None:
    assert "toolConfig" not in converse(tools=[function()], tool_choice="none")
    error = refused(chat({"role": "tool", "tool_call_id": "a", "content": "x"}, tools=[function()], tool_choice="none"))
    assert error.param == "tool_choice"


@pytest.mark.parametrize("choice", ["sometimes", {"type": "allowed_tools", "allowed_tools": {}}, {"type": "custom"}])
def test_a_choice_that_converse_does_not_know_is_refused(choice: object) -> None:
    assert refused(chat(tools=[function()], tool_choice=choice)).param == "tool_choice"


@pytest.mark.parametrize("tool", [{"type": "web_search"}, {"type": "function"}])
def test_a_tool_that_is_no_function_is_refused(tool: Json) -> None:
    assert refused(chat(tools=[tool])).param == "tools"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"max_tokens": 7}, {"maxTokens": 7}),
        ({"max_completion_tokens": 8, "max_tokens": 7}, {"maxTokens": 8}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0, "topP": 0.5}),
        ({"stop": "END"}, {"stopSequences": ["END"]}),
        ({"stop": ["a", "b"]}, {"stopSequences": ["a", "b"]}),
        ({"stop": []}, None),
        ({"stop": None, "seed": 1, "user": "u", "store": True, "n": 1, "logprobs": False}, None),
        ({"presence_penalty": 0, "logit_bias": {}, "modalities": ["text"], "parallel_tool_calls": False}, None),
    ],
)
def test_sampling_is_told(fields: Json, told: object) -> None:
    assert converse(**fields).get("inferenceConfig") == told


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"presence_penalty": 0.1}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": []}, "functions"),
        ({"tools": [function()], "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
    ],
)
def test_what_would_change_the_answer_is_refused_and_not_forgotten(fields: Json, param: str) -> None:
    error = refused(chat(**fields))
    assert (error.param, error.code) == (param, "unsupported_parameter")
    assert "Converse" in str(error)


def test_a_schema_for_the_answer_is_told() -> None:
    wanted = {"name": "city", "strict": True, "schema": {"type": "object"}}
    body = converse(response_format={"type": "json_schema", "json_schema": wanted}, reasoning_effort="low")
    assert body["outputConfig"] == {
        "effort": "low",
        "textFormat": {
            "type": "json_schema",
            "structure": {"jsonSchema": {"schema": '{"type": "object"}', "name": "city"}},
        },
    }
    assert "outputConfig" not in converse(response_format={"type": "text"})


def test_what_is_converses_own_passes_as_it_is() -> None:
    own: Json = {
        "additionalModelRequestFields": {"top_k": 5},
        "guardrailConfig": {"guardrailIdentifier": "abc", "guardrailVersion": "1"},
        "performanceConfig": {"latency": "optimized"},
        "requestMetadata": {"team": "a"},
        "serviceTier": {"type": "flex"},
    }
    assert converse(**own) == {"messages": [said("hello")], **own}


@pytest.mark.parametrize(
    "body", [{"messages": "hello"}, {"messages": [{"content": "x"}]}, {"messages": [user("x")], "temperature": "hot"}]
)
def test_a_field_of_the_wrong_type_is_refused(body: Json) -> None:
    assert refused(request(**body)).code == "invalid_type"


@pytest.mark.parametrize("operation", [Operation.COMPLETIONS, Operation.TOKENIZE, Operation.DETOKENIZE])
def test_what_bedrock_does_not_offer_is_refused(operation: Operation) -> None:
    error = refused(request(operation, prompt="x"))
    assert error.code == "unsupported_operation" and f"/{operation}" in str(error)
    assert MODEL not in str(error)
