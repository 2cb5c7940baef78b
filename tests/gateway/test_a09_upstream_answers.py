"""What an engine's status and body mean for the client: the golden table (A09)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.harness import CHAT, COMPLETIONS, DONE, EMBEDDINGS, Json, chat, config_of, engine_running, serving, streamed

VLLM = {"error": {"message": "what it says", "type": "X", "param": None, "code": 0}}
CONTEXT = "This model's maximum context length is 10 tokens. However, you requested 20 output tokens."
WHOLE: Json = {"id": "x", "object": "chat.completion", "model": "m", "usage": None}


@dataclass(frozen=True)
class Case:
    name: str
    status: int
    body: Any
    expected: tuple[int, str, str]
    headers: dict[str, str] = field(default_factory=dict)
    says: str = ""

    def __str__(self) -> str:
        return self.name


TABLE = [
    Case("400", 400, VLLM, (400, "invalid_request_error", "invalid_request"), says="what it says"),
    Case("400 flat", 400, {"object": "error", "message": "m1", "code": 400},
         (400, "invalid_request_error", "invalid_request"), says="m1"),
    Case("400 text", 400, "plain words", (400, "invalid_request_error", "invalid_request"), says="plain words"),
    Case("400 context", 400, {"error": {"message": CONTEXT}},
         (400, "invalid_request_error", "context_length_exceeded")),
    Case("400 llama.cpp context", 400,
         {"error": {"code": 400, "message": "request (99 tokens) exceeds the available context size",
                    "type": "exceed_context_size_error"}},
         (400, "invalid_request_error", "context_length_exceeded")),
    Case("400 code", 400, {"error": {"message": "a", "code": "invalid_image"}},
         (400, "invalid_request_error", "invalid_image")),
    Case("401", 401, {"error": "Unauthorized"}, (502, "server_error", "upstream_auth")),
    Case("403", 403, VLLM, (502, "server_error", "upstream_auth")),
    Case("404 model", 404, {"error": {"message": "The model `x` does not exist."}},
         (502, "server_error", "upstream_model_not_found")),
    Case("404 path", 404, {"detail": "Not Found"}, (400, "invalid_request_error", "unsupported_operation")),
    Case("405", 405, {"detail": "Method Not Allowed"}, (400, "invalid_request_error", "unsupported_operation")),
    Case("408", 408, VLLM, (504, "timeout_error", "upstream_timeout")),
    Case("409", 409, VLLM, (409, "invalid_request_error", "conflict")),
    Case("413", 413, VLLM, (413, "invalid_request_error", "body_too_large")),
    Case("422 FastAPI", 422, {"detail": [{"loc": ["body"], "msg": "field required"}]},
         (400, "invalid_request_error", "invalid_request")),
    Case("422", 422, VLLM, (400, "invalid_request_error", "invalid_request")),
    Case("429", 429, VLLM, (429, "rate_limit_error", "rate_limit_exceeded"), {"retry-after": "7"}),
    Case("418", 418, VLLM, (400, "invalid_request_error", "invalid_request")),
    Case("500", 500, VLLM, (502, "server_error", "upstream_error")),
    Case("500 HTML", 500, "<html>nginx</html>", (502, "server_error", "upstream_error")),
    Case("500 empty", 500, "", (502, "server_error", "upstream_error")),
    Case("501", 501, VLLM, (400, "invalid_request_error", "unsupported_operation")),
    Case("502 HTML", 502, "<html>Bad Gateway</html>", (502, "server_error", "upstream_error")),
    Case("503", 503, VLLM, (503, "server_is_overloaded", "server_is_overloaded")),
    Case("503 empty", 503, "", (503, "server_is_overloaded", "server_is_overloaded")),
    Case("504", 504, VLLM, (504, "timeout_error", "upstream_timeout")),
    Case("529", 529, VLLM, (503, "server_is_overloaded", "server_is_overloaded")),
    Case("302", 302, "", (502, "server_error", "upstream_error"), {"location": "http://127.0.0.1:1/"}),
    Case("204", 204, "", (502, "server_error", "upstream_error")),
    Case("200 error", 200, VLLM, (502, "server_error", "upstream_error")),
    Case("200 error text", 200, {"error": "out of memory"}, (502, "server_error", "upstream_error")),
    Case("200 null choices", 200, WHOLE | {"choices": None}, (502, "server_error", "upstream_empty_answer")),
    Case("200 no choices", 200, WHOLE | {"choices": []}, (502, "server_error", "upstream_empty_answer")),
    Case("200 null message", 200, WHOLE | {"choices": [{"index": 0, "message": None}]},
         (502, "server_error", "upstream_empty_answer")),
    Case("200 empty", 200, "", (502, "server_error", "upstream_bad_body")),
    Case("200 HTML", 200, "<html>login</html>", (502, "server_error", "upstream_bad_body")),
    Case("200 truncated", 200, json.dumps(WHOLE | {"choices": [{"message": {"content": "a"}}]})[:-3],
         (502, "server_error", "upstream_bad_body")),
    Case("200 list", 200, "[]", (502, "server_error", "upstream_bad_body")),
    Case("200 null", 200, "null", (502, "server_error", "upstream_bad_body")),
    Case("200 number", 200, "7", (502, "server_error", "upstream_bad_body")),
    Case("200 deep", 200, "[" * 5000, (502, "server_error", "upstream_bad_body")),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", TABLE, ids=str)
async def test_a09_the_answer_for_each_status_and_body(case: Case, stream: bool) -> None:
    fake = {"status": case.status, "body": case.body, "headers": case.headers}
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(CHAT, chat(stream=stream, fake=fake))
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == case.expected
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert case.says in error["message"]
        assert "<html" not in error["message"]
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-request-id"]
        assert ("retry-after" in answer.headers) == (answer.status_code in (429, 503))
        (record,) = await server.records()
        assert (record["status"], record["error"]) == (answer.status_code, error["code"])


@pytest.mark.parametrize(
    ("path", "body", "given"),
    [
        (COMPLETIONS, {"prompt": "x"}, {"choices": [{"text": None}]}),
        (COMPLETIONS, {"prompt": "x"}, {"choices": None}),
        (EMBEDDINGS, {"input": "x"}, {"data": None}),
        (EMBEDDINGS, {"input": "x"}, {"object": "list"}),
    ],
)
async def test_a09_an_answer_without_a_result_is_none_on_every_route(path: str, body: Json, given: Json) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(path, {"model": "m", "fake": {"body": given}} | body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_empty_answer")


@pytest.mark.parametrize(
    "given",
    [
        {"choices": [{"message": {"content": None, "tool_calls": [{"id": "1"}]}}]},
        {"choices": [{"message": {"content": ""}}], "usage": None},
        {"choices": [{"message": {"content": "a"}, "finish_reason": None}], "error": None},
        {"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": None}},
        {"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": 3, "prompt_tokens_details": None}},
    ],
)
async def test_a09_odd_but_whole_answers_pass_as_they_are(given: Json) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(CHAT, chat(fake={"body": given}))
        assert (answer.status_code, answer.json()) == (200, given)


STREAMS = [
    ("empty", "", (502, "server_error", "upstream_died")),
    ("only [DONE]", DONE.decode(), (200, "", "")),
    ("error 400", 'data: {"error":{"message":"bad","code":400}}\n\n',
     (400, "invalid_request_error", "invalid_request")),
    ("error 500", 'data: {"error":{"message":"bad","code":500}}\n\n', (502, "server_error", "upstream_error")),
    ("error 503", 'data: {"error":{"message":"full","code":503}}\n\n',
     (503, "server_is_overloaded", "server_is_overloaded")),
    ("error text", 'data: {"error":"bad"}\n\n', (502, "server_error", "upstream_error")),
    ("error as event", 'event: error\ndata: {"error":{"message":"bad"}}\n\n', (502, "server_error", "upstream_error")),
]  # fmt: skip


@pytest.mark.parametrize(("sse", "expected"), [pytest.param(*case[1:], id=case[0]) for case in STREAMS])
async def test_a09_a_stream_that_begins_with_an_error_has_a_status(sse: str, expected: tuple[int, str, str]) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(CHAT, streamed(fake={"sse": sse}))
        assert answer.status_code == expected[0]
        if expected[0] != 200:
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == expected[1:]


async def test_r05_a_clients_4xx_never_opens_a_breaker() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        for status in (400, 404, 409, 413, 422, 429, 503) * 3:
            await server.post(CHAT, chat(fake={"status": status}))
        assert (await server.post(CHAT, chat())).status_code == 200
