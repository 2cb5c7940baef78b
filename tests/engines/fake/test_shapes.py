from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from engines.fake import FakeEngine, FakeOptions
from tests.engines.fake.client import CHAT, chat, events, get, post

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 2}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city", "days"],
}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}]


async def test_a_chat_answer_has_vllms_shape() -> None:
    async with FakeEngine() as engine:
        answer = (await post(engine.url, CHAT, chat(max_tokens=3))).json()
    assert set(answer) == {"id", "object", "created", "model", "choices", "usage"}
    assert (answer["object"], answer["model"]) == ("chat.completion", "fake-model")
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["role"] == "assistant"
    assert len(choice["message"]["content"].split()) == 3
    usage = answer["usage"]
    assert usage["completion_tokens"] == 3
    assert usage["total_tokens"] == usage["prompt_tokens"] + 3
    assert usage["prompt_tokens_details"] is None


async def test_a_stream_carries_the_same_words_as_the_whole_answer() -> None:
    async with FakeEngine() as engine:
        whole = (await post(engine.url, CHAT, chat())).json()
        stream = await post(engine.url, CHAT, chat(stream=True, stream_options={"include_usage": True}))
    assert stream.headers["content-type"].startswith("text/event-stream")
    first, *middle, last, usage = events(stream.text)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(event["choices"][0]["finish_reason"] is None for event in middle)
    text = "".join(event["choices"][0]["delta"]["content"] for event in middle)
    assert text == whole["choices"][0]["message"]["content"]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]


async def test_a_stream_has_no_usage_unless_asked() -> None:
    async with FakeEngine() as engine:
        stream = await post(engine.url, CHAT, chat(stream=True))
        silent = await post(
            engine.url, CHAT, chat(stream=True, stream_options={"include_usage": True}, fake={"no_usage": True})
        )
    for text in (stream.text, silent.text):
        assert all("usage" not in event and event["choices"] for event in events(text))


@pytest.mark.parametrize("stream", [False, True])
async def test_every_one_of_n_choices_is_there(stream: bool) -> None:
    async with FakeEngine() as engine:
        answer = await post(engine.url, CHAT, chat(n=3, stream=stream))
    found = events(answer.text) if stream else [answer.json()]
    assert {choice["index"] for event in found for choice in event["choices"]} == {0, 1, 2}


async def test_logprobs_are_given_in_both_shapes() -> None:
    async with FakeEngine() as engine:
        answer = (await post(engine.url, CHAT, chat(logprobs=True, top_logprobs=2, max_tokens=2))).json()
        stream = await post(engine.url, CHAT, chat(logprobs=True, max_tokens=2, stream=True))
        ask = {"prompt": "a b", "max_tokens": 2, "logprobs": 1}
        text = (await post(engine.url, "/v1/completions", ask)).json()
        text_stream = await post(engine.url, "/v1/completions", ask | {"stream": True})
    content = answer["choices"][0]["logprobs"]["content"]
    assert [set(entry) for entry in content] == [{"token", "logprob", "bytes", "top_logprobs"}] * 2
    assert len(events(stream.text)[1]["choices"][0]["logprobs"]["content"]) == 1
    logprobs = text["choices"][0]["logprobs"]
    assert set(logprobs) == {"text_offset", "token_logprobs", "tokens", "top_logprobs"}
    assert logprobs["text_offset"][0] == 0
    assert "".join(logprobs["tokens"]) == text["choices"][0]["text"]
    assert len(events(text_stream.text)[0]["choices"][0]["logprobs"]["tokens"]) == 1


async def test_a_completion_answers_every_prompt_and_echoes_on_request() -> None:
    async with FakeEngine() as engine:
        many = (await post(engine.url, "/v1/completions", {"prompt": ["one", "two"], "n": 2})).json()
        ids = (await post(engine.url, "/tokenize", {"prompt": "say it"})).json()["tokens"]
        echo = (await post(engine.url, "/v1/completions", {"prompt": [ids], "echo": True, "max_tokens": 1})).json()
        flat = (await post(engine.url, "/v1/completions", {"prompt": ids, "max_tokens": 1})).json()
        stream = await post(engine.url, "/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 2})
    assert [choice["index"] for choice in many["choices"]] == [0, 1, 2, 3]
    assert echo["choices"][0]["text"].startswith("say it")
    assert echo["usage"] == flat["usage"]
    assert [event["choices"][0]["finish_reason"] for event in events(stream.text)] == [None, None, "length"]


@pytest.mark.parametrize(
    ("content", "choice", "arguments"),
    [
        ("please call get_weather", "auto", {"city": "aa", "days": 1}),
        ('call get_weather {"city":"Paris","days":2}', None, {"city": "Paris", "days": 2}),
        ("what is up", "required", {"city": "aa", "days": 1}),
        ("hm", {"type": "function", "function": {"name": "get_weather"}}, {"city": "aa", "days": 1}),
    ],
)
async def test_a_tool_is_called_when_the_user_or_the_choice_says_so(
    content: str, choice: Any, arguments: dict[str, Any]
) -> None:
    async with FakeEngine() as engine:
        ask = chat(content, tools=TOOLS, tool_choice=choice)
        whole = (await post(engine.url, CHAT, ask)).json()["choices"][0]
        stream = events((await post(engine.url, CHAT, ask | {"stream": True})).text)
    (call,) = whole["message"]["tool_calls"]
    assert (whole["finish_reason"], whole["message"]["content"]) == ("tool_calls", None)
    assert json.loads(call["function"]["arguments"]) == arguments
    deltas = [event["choices"][0]["delta"] for event in stream]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert (calls[0]["id"], calls[0]["function"]["name"]) == (call["id"], "get_weather")
    assert "".join(c["function"]["arguments"] for c in calls) == call["function"]["arguments"]
    assert stream[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_tools_stay_unused_when_nobody_calls_them() -> None:
    async with FakeEngine() as engine:
        for content, choice in (("hello", "auto"), ("call get_weather", "none"), ("call other_tool", "auto")):
            answer = (await post(engine.url, CHAT, chat(content, tools=TOOLS, tool_choice=choice))).json()
            assert answer["choices"][0]["message"]["tool_calls"] == []


async def test_a_response_format_is_kept() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER}}
    async with FakeEngine() as engine:
        by_schema = (await post(engine.url, CHAT, chat(response_format=schema))).json()
        free = (await post(engine.url, CHAT, chat(response_format={"type": "json_object"}))).json()
    assert json.loads(by_schema["choices"][0]["message"]["content"]) == {"city": "aa", "days": 1}
    assert json.loads(free["choices"][0]["message"]["content"]) == {}


async def test_a_stop_string_ends_the_answer_before_it() -> None:
    async with FakeEngine() as engine:
        ask = chat(stop=["never", "three"], fake={"text": "one two three four"})
        choice = (await post(engine.url, CHAT, ask)).json()["choices"][0]
        single = (await post(engine.url, CHAT, ask | {"stop": "wo"})).json()["choices"][0]
        none = (await post(engine.url, CHAT, ask | {"stop": "zzz"})).json()["choices"][0]
    assert (choice["message"]["content"], choice["stop_reason"]) == ("one two ", "three")
    assert (single["message"]["content"], single["finish_reason"]) == ("one t", "stop")
    assert none["stop_reason"] is None


async def test_lengths_follow_ignore_eos_min_tokens_and_the_newer_limit() -> None:
    async with FakeEngine(FakeOptions(output_tokens=4)) as engine:

        async def tokens(**fields: Any) -> int:
            answer = (await post(engine.url, CHAT, chat(**fields))).json()
            return int(answer["usage"]["completion_tokens"])

        assert await tokens() == 4
        assert await tokens(max_completion_tokens=2, max_tokens=3) == 2
        assert await tokens(min_tokens=9) == 9
        assert await tokens(ignore_eos=True, max_tokens=30) == 30
        assert await tokens(fake={"output_tokens": 0}) == 0


async def test_parts_of_a_message_are_read_as_text() -> None:
    parts = [{"type": "text", "text": "call get_weather"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    body = {"messages": [{"role": "system"}, {"role": "user", "content": parts}], "tools": TOOLS}
    async with FakeEngine() as engine:
        answer = (await post(engine.url, CHAT, body)).json()
    assert answer["choices"][0]["message"]["tool_calls"]


async def test_embeddings_are_the_same_in_both_formats() -> None:
    async with FakeEngine() as engine:
        plain = (await post(engine.url, "/v1/embeddings", {"input": ["a", "b"], "dimensions": 4})).json()
        ask = {"input": "a", "dimensions": 4, "encoding_format": "base64"}
        packed = (await post(engine.url, "/v1/embeddings", ask)).json()
    vector = plain["data"][0]["embedding"]
    assert sum(x * x for x in vector) == pytest.approx(1)
    assert struct.unpack("<4f", base64.b64decode(packed["data"][0]["embedding"])) == pytest.approx(vector)
    assert plain["data"][1]["embedding"] != vector
    assert plain["usage"]["total_tokens"] == 2


async def test_tokens_turn_back_into_their_text() -> None:
    text = "Grüße, 世界 — 🙂 extraordinarily\n\n\tlong words"
    async with FakeEngine() as engine:
        asked = {"prompt": text, "return_token_strs": True}
        answer = (await post(engine.url, "/tokenize", asked)).json()
        back = (await post(engine.url, "/detokenize", {"tokens": answer["tokens"]})).json()
        by_chat = (await post(engine.url, "/tokenize", {"messages": [{"role": "user", "content": "hi"}]})).json()
        usage = (await post(engine.url, CHAT, chat("hi"))).json()["usage"]
    assert back == {"prompt": text}
    assert (answer["count"], answer["max_model_len"]) == (len(answer["tokens"]), 8192)
    assert len(answer["token_strs"]) == answer["count"]
    assert by_chat["count"] == usage["prompt_tokens"]


async def test_models_version_load_and_health_answer() -> None:
    async with FakeEngine(FakeOptions(models=("a", "b"))) as engine:
        models = (await get(engine.url, "/v1/models")).json()
        assert [model["id"] for model in models["data"]] == ["a", "b"]
        assert (await get(engine.url, "/version")).json() == {"version": "0.32.0"}
        assert (await get(engine.url, "/load")).json() == {"server_load": 0}
        health = await get(engine.url, "/health")
        assert (health.status_code, health.content) == (200, b"")
        assert (await post(engine.url, CHAT, {"messages": [{"role": "user"}]})).json()["model"] == "a"


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "words"),
    [
        (CHAT, chat(model="nope"), 404, "NotFoundError", "`nope` does not exist"),
        (CHAT, {"model": "fake-model"}, 400, "Bad Request", "messages"),
        (CHAT, {"messages": []}, 400, "BadRequestError", "must not be empty"),
        (CHAT, chat("word " * 9000), 400, "BadRequestError", "maximum context length is 8192 tokens"),
        (CHAT, chat(max_tokens=8190), 400, "BadRequestError", "you requested 8190 output"),
        (CHAT, chat(max_tokens=0), 400, "BadRequestError", "at least 1"),
        (CHAT, chat(n=0), 400, "BadRequestError", "n must be from 1 to 128"),
        (CHAT, chat(fake={"hnag": "mid"}), 400, "Bad Request", "hnag"),
        ("/v1/completions", {"prompt": []}, 400, "BadRequestError", "empty list"),
        ("/v1/embeddings", {"input": "word " * 9000}, 400, "BadRequestError", "maximum context"),
        ("/tokenize", {}, 400, "Bad Request", "prompt"),
        ("/detokenize", {"tokens": [1], "model": "x"}, 404, "NotFoundError", "x"),
    ],
)
async def test_a_wrong_request_is_refused_in_vllms_shape(
    path: str, body: dict[str, Any], status: int, kind: str, words: str
) -> None:
    async with FakeEngine() as engine:
        answer = await post(engine.url, path, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (status, status, kind)
    assert words in error["message"]


async def test_paths_and_methods_that_are_not_there_are_told_apart() -> None:
    async with FakeEngine() as engine:
        assert (await get(engine.url, "/nowhere")).status_code == 404
        assert (await get(engine.url, CHAT)).status_code == 405
        assert engine.stats.requests == 0
