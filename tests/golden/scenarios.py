"""The requests that are recorded from every engine: one table, engine by engine only where their APIs differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

MODEL = "smollm2"
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"

JsonObject = dict[str, object]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One request. An empty body makes it a GET. With `crowd` the same request is already being answered beside it;
    with `kills` a part of the engine is killed while it answers."""

    name: str
    path: str
    body: bytes = b""
    crowd: bool = False
    kills: bool = False


def scenarios(engine: str, group: str) -> Iterator[Scenario]:
    """What to send to `engine` ("vllm" or "llamacpp").

    group: generate (it serves text), embed (it serves embeddings), fault (it is full, or breaks).
    """
    if group == "embed":
        yield from _embeddings()
    elif group == "fault":
        yield from _faults(engine)
    else:
        yield from _chat()
        yield from _completions(engine)
        yield from _tokens(engine)
        yield from _errors(engine)
        yield Scenario("embeddings-unsupported", EMBEDDINGS, _json({"model": MODEL, "input": "Hello"}))
        for path in ("/v1/models", "/health", "/version", "/metrics"):
            yield Scenario(path.removeprefix("/v1").strip("/"), path)


def _json(body: JsonObject) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _three_ways(name: str, path: str, body: JsonObject) -> Iterator[Scenario]:
    """The whole answer at once, as a stream, and as a stream with usage."""
    body = {"model": MODEL, "max_tokens": 12, "temperature": 0, "seed": 7, **body}
    yield Scenario(name, path, _json(body))
    yield Scenario(f"{name}-stream", path, _json({**body, "stream": True}))
    usage: JsonObject = {"stream": True, "stream_options": {"include_usage": True}}
    yield Scenario(f"{name}-stream-usage", path, _json({**body, **usage}))


def _user(text: str) -> JsonObject:
    return {"messages": [_says(text)]}


def _says(text: str) -> JsonObject:
    return {"role": "user", "content": text}


def _call(city: str) -> list[JsonObject]:
    """A question and its tool call, so that even a very small model copies the form."""
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    call: JsonObject = {"id": f"call-{city}", "type": "function", "function": function}
    return [_says(f"Weather in {city}?"), {"role": "assistant", "content": "", "tool_calls": [call]}]


_FRANCE = _user("What is the capital of France?")
_SYSTEM = "You are a careful assistant. Answer in one short sentence. " * 16
_CACHED: JsonObject = {
    "messages": [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "Name a colour."}]
}
_TOOL: JsonObject = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_SCHEMA: JsonObject = {
    "type": "json_schema",
    "json_schema": {
        "name": "capital",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def _chat() -> Iterator[Scenario]:
    weather: JsonObject = {
        "messages": [*_call("Rome"), *_call("Oslo"), _says("Weather in Paris?")],
        "tools": [_TOOL],
        "max_tokens": 48,
    }
    forced = {"type": "function", "function": {"name": "get_weather"}}
    yield from _three_ways("chat-short", CHAT, _FRANCE)
    yield from _three_ways("chat-logprobs", CHAT, {**_FRANCE, "logprobs": True, "top_logprobs": 2, "max_tokens": 4})
    yield from _three_ways("chat-n2", CHAT, {**_user("Name a colour."), "n": 2, "temperature": 1, "max_tokens": 6})
    yield from _three_ways("chat-tool-named", CHAT, {**weather, "tool_choice": forced})
    yield from _three_ways("chat-tool-required", CHAT, {**weather, "tool_choice": "required"})
    yield from _three_ways("chat-tool-auto", CHAT, {**weather, "tool_choice": "auto"})
    yield from _three_ways("chat-schema", CHAT, {**_FRANCE, "response_format": _SCHEMA, "max_tokens": 24})
    yield from _three_ways("chat-unicode", CHAT, {**_user("Repeat: 🙂🚀 naïve 日本語 🙂🚀 naïve"), "max_tokens": 24})
    yield from _three_ways("chat-stop", CHAT, {**_FRANCE, "stop": [" of F", "toile"]})
    yield from _three_ways("chat-one-token", CHAT, {**_FRANCE, "max_tokens": 1})
    yield from _three_ways("chat-cached", CHAT, {**_CACHED, "max_tokens": 4})
    running: JsonObject = {"include_usage": True, "continuous_usage_stats": True}
    body: JsonObject = {"model": MODEL, **_FRANCE, "max_tokens": 3, "temperature": 0, "stream": True}
    yield Scenario("chat-running-usage-stream", CHAT, _json({**body, "stream_options": running}))


def _completions(engine: str) -> Iterator[Scenario]:
    yield from _three_ways("completion-short", COMPLETIONS, {"prompt": "The capital of France is", "max_tokens": 6})
    yield from _three_ways("completion-unicode", COMPLETIONS, {"prompt": "🙂🚀🙂🚀🙂🚀🙂🚀🙂", "max_tokens": 16})
    yield from _three_ways("completion-logprobs", COMPLETIONS, {"prompt": "One, two,", "logprobs": 2, "max_tokens": 4})
    yield from _three_ways("completion-two-prompts", COMPLETIONS, {"prompt": ["One, two,", "A, b,"], "max_tokens": 4})
    if engine == "vllm":
        yield from _three_ways("completion-echo", COMPLETIONS, {"prompt": "One, two,", "echo": True, "max_tokens": 4})


def _tokens(engine: str) -> Iterator[Scenario]:
    text = "Hello wörld 🙂"
    if engine == "llamacpp":
        yield Scenario("tokenize", "/tokenize", _json({"content": text}))
        yield Scenario("tokenize-pieces", "/tokenize", _json({"content": text, "with_pieces": True}))
        yield Scenario("tokenize-foreign-body", "/tokenize", _json({"model": MODEL, "prompt": text}))
    else:
        yield Scenario("tokenize", "/tokenize", _json({"model": MODEL, "prompt": text}))
        pieces: JsonObject = {"prompt": text, "return_token_strs": True}
        yield Scenario("tokenize-pieces", "/tokenize", _json({"model": MODEL, **pieces}))
        yield Scenario("tokenize-chat", "/tokenize", _json({"model": MODEL, **_FRANCE}))
        yield Scenario("tokenize-foreign-body", "/tokenize", _json({"content": text}))
    tokens = [19556, 267, 29989, 400, 47526]
    yield Scenario("detokenize", "/detokenize", _json({"model": MODEL, "tokens": tokens}))
    yield Scenario("tokenize-under-v1", "/v1/tokenize", _json({"model": MODEL, "prompt": text}))


def _errors(engine: str) -> Iterator[Scenario]:
    long = {"model": MODEL, **_user("word " * 1100), "max_tokens": 4}
    bad_schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no-such-type"}}}
    for suffix, stream in (("", False), ("-stream", True)):
        bodies: dict[str, JsonObject] = {
            "unknown-model": {"model": "no-such-model", **_FRANCE, "max_tokens": 1},
            "no-messages": {"model": MODEL},
            "context-too-long": long,
            "wrong-type": {"model": MODEL, **_FRANCE, "temperature": "hot"},
            "bad-schema": {"model": MODEL, **_FRANCE, "response_format": bad_schema, "max_tokens": 4},
        }
        for name, body in bodies.items():
            yield Scenario(f"error-{name}{suffix}", CHAT, _json({**body, "stream": stream}))
    yield Scenario(
        "error-max-tokens", CHAT, _json({"model": MODEL, **_FRANCE, "max_tokens": 100_000 if engine == "vllm" else -5})
    )
    yield Scenario("error-bad-json", CHAT, b'{"model": "smollm2", "messages": [')
    yield Scenario("error-empty-object", CHAT, b"{}")
    yield Scenario("error-get-chat", CHAT)
    yield Scenario("error-no-such-path", "/v1/no-such-path", b"{}")


def _embeddings() -> Iterator[Scenario]:
    inputs: dict[str, JsonObject] = {
        "one": {"input": "Hello"},
        "two": {"input": ["Hello", "Hello wörld 🙂"]},
        "tokens": {"input": [[19556, 267, 29989]]},
        "base64": {"input": "Hello", "encoding_format": "base64"},
        "dimensions": {"input": "Hello", "dimensions": 8},
        "empty": {"input": ""},
    }
    for name, more in inputs.items():
        yield Scenario(f"embeddings-{name}", EMBEDDINGS, _json({"model": MODEL, **more}))


def _faults(engine: str) -> Iterator[Scenario]:
    """llama.cpp: streams outgrow the shared KV cache. vLLM: it is full; its core is killed under a stream."""
    body: JsonObject = {"model": MODEL, **_user("word " * 440), "temperature": 0, "ignore_eos": True, "stream": True}
    if engine == "llamacpp":
        yield Scenario("fault-kv-full-stream", CHAT, _json({**body, "max_tokens": 60}), crowd=True)
    else:
        yield Scenario("fault-busy", CHAT, _json({**body, "max_tokens": 60}), crowd=True)
        yield Scenario("fault-core-died-stream", CHAT, _json({**body, **_FRANCE, "max_tokens": 200}), kills=True)
        yield Scenario("fault-core-dead", CHAT, _json({"model": MODEL, **_FRANCE, "max_tokens": 1}))
