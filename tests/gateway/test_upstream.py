"""A09: what each answer of an engine means for the caller and for the engine's standing. The table is the contract."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engines.base import EngineDied, EngineError, EngineProtocolError, EngineTimeout, EngineUnreachable, Operation
from gateway.errors import ApiError
from gateway.record import Usage
from gateway.upstream import (
    MAX_MESSAGE_CHARS,
    Outcome,
    Rejection,
    check_whole,
    from_engine_error,
    from_stream_error,
    rejection,
)
from tests.golden.loader import Case, cases


class Row(NamedTuple):
    """An engine's status and body → our status, type and code, and what it says about the replica."""

    status: int
    body: bytes
    ours: int
    kind: str
    code: str
    outcome: Outcome


INVALID, SERVER, TIMEOUT = "invalid_request_error", "server_error", "timeout_error"
LIMIT, FULL = "rate_limit_error", "server_is_overloaded"
FINE, BUSY, BROKEN = Outcome.FINE, Outcome.FULL, Outcome.BROKEN

VLLM = b'{"error":{"message":"%b","type":"BadRequestError","param":null,"code":%d}}'
FLAT = b'{"object":"error","message":"%b","type":"BadRequestError","param":null,"code":%d}'
LLAMA_CONTEXT = (
    b'{"error":{"code":400,"message":"request (1131 tokens) exceeds the available context size (1024 tokens), try '
    b'increasing it","type":"exceed_context_size_error","n_prompt_tokens":1131,"n_ctx":1024}}'
)
VLLM_CONTEXT = b"This model's maximum context length is 1024 tokens. However, you requested 2000."
OPENAI_CONTEXT = b'{"error":{"message":"Too long.","type":"x","param":"messages","code":"context_length_exceeded"}}'
NO_MODEL = b"The model `x` does not exist."
HTML = b"<html><body><h1>oops</h1></body></html>"

TABLE = [
    Row(400, VLLM % (b"bad", 400), 400, INVALID, "invalid_request", FINE),
    Row(400, FLAT % (b"bad", 400), 400, INVALID, "invalid_request", FINE),
    Row(400, b'{"error":"bad"}', 400, INVALID, "invalid_request", FINE),
    Row(400, b'{"error":{"message":"bad","code":"invalid_value","param":"n"}}', 400, INVALID, "invalid_value", FINE),
    Row(400, b"", 400, INVALID, "invalid_request", FINE),
    Row(400, HTML, 400, INVALID, "invalid_request", FINE),
    Row(400, LLAMA_CONTEXT, 400, INVALID, "context_length_exceeded", FINE),
    Row(400, VLLM % (VLLM_CONTEXT, 400), 400, INVALID, "context_length_exceeded", FINE),
    Row(400, OPENAI_CONTEXT, 400, INVALID, "context_length_exceeded", FINE),
    Row(422, b'{"detail":[{"loc":["body","n"],"msg":"bad"}]}', 400, INVALID, "invalid_request", FINE),
    Row(422, b'{"error":"Input validation error","error_type":"validation"}', 400, INVALID, "invalid_request", FINE),
    Row(401, VLLM % (b"Unauthorized", 401), 502, SERVER, "upstream_auth", BROKEN),
    Row(402, b'{"error":{"message":"Insufficient credits"}}', 502, SERVER, "upstream_auth", BROKEN),
    Row(403, b"Forbidden", 502, SERVER, "upstream_auth", BROKEN),
    Row(404, b'{"detail":"Not Found"}', 400, INVALID, "unsupported_operation", FINE),
    Row(404, HTML, 400, INVALID, "unsupported_operation", FINE),
    Row(404, VLLM % (NO_MODEL, 404), 502, SERVER, "upstream_model_not_found", BROKEN),
    Row(
        404, b'{"error":"model \'x\' not found, try pulling it first"}', 502, SERVER, "upstream_model_not_found", BROKEN
    ),
    Row(405, b'{"detail":"Method Not Allowed"}', 400, INVALID, "unsupported_operation", FINE),
    Row(408, b"", 504, TIMEOUT, "upstream_timeout", BROKEN),
    Row(409, VLLM % (b"busy id", 409), 409, INVALID, "conflict", FINE),
    Row(413, HTML, 413, INVALID, "body_too_large", FINE),
    Row(415, b"", 400, INVALID, "invalid_request", FINE),
    Row(418, b"teapot", 400, INVALID, "invalid_request", FINE),
    Row(429, VLLM % (b"slow down", 429), 429, LIMIT, "rate_limit_exceeded", BUSY),
    Row(429, b"", 429, LIMIT, "rate_limit_exceeded", BUSY),
    Row(500, VLLM % (b"boom", 500), 502, SERVER, "upstream_error", BROKEN),
    Row(500, b"Internal Server Error", 502, SERVER, "upstream_error", BROKEN),
    Row(
        501,
        b'{"error":{"code":501,"message":"off","type":"not_supported_error"}}',
        400,
        INVALID,
        "unsupported_operation",
        FINE,
    ),
    Row(502, HTML, 502, SERVER, "upstream_error", BROKEN),
    Row(503, VLLM % (b"The engine is currently busy", 503), 503, FULL, "server_is_overloaded", BUSY),
    Row(
        503,
        b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}',
        503,
        FULL,
        "server_is_overloaded",
        BUSY,
    ),
    Row(504, HTML, 504, TIMEOUT, "upstream_timeout", BROKEN),
    Row(529, b'{"error":{"type":"overloaded_error"}}', 503, FULL, "server_is_overloaded", BUSY),
    Row(599, b"", 502, SERVER, "upstream_error", BROKEN),
    Row(204, b"", 502, SERVER, "upstream_error", BROKEN),
    Row(201, b"{}", 502, SERVER, "upstream_error", BROKEN),
    Row(302, HTML, 502, SERVER, "upstream_error", BROKEN),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.status}-{row.body[:40]!r}")
def test_an_engine_status_and_body_become_ours(row: Row) -> None:
    """A09, R05"""
    found = rejection(Operation.CHAT, row.status, {}, row.body)
    error = found.error
    assert (error.status, error.type, error.code, found.outcome) == row[2:]
    told = json.loads(error.body())["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert told["message"]
    assert "<" not in told["message"]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("vllm", "`engine.api_key`"),
        ("anthropic", "`engine.api_key`"),
        ("azure", "`engine.api_key` or `engine.azure`"),
        ("bedrock", "`engine.aws` or `engine.api_key`"),
        ("sagemaker", "`engine.aws`"),
        ("vertex", "`engine.google.credentials_file`"),
    ],
)
@pytest.mark.parametrize("status", [401, 402, 403])
def test_credentials_that_an_engine_refuses_are_named_as_its_kind_has_them(
    status: int, kind: str, settings: str
) -> None:
    error = rejection(Operation.CHAT, status, {}, b"", kind).error
    assert error.message == f"The engine refused the gateway's credentials; check {settings} of the pool."


def whole(operation: Operation, body: bytes) -> tuple[int, str, Outcome]:
    with pytest.raises(Rejection) as caught:
        check_whole(operation, body)
    return caught.value.error.status, caught.value.error.code, caught.value.outcome


CHAT, TEXT, VECTORS = Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS


@pytest.mark.parametrize(
    ("operation", "body", "expected"),
    [
        (CHAT, b"", (502, "upstream_bad_body", BROKEN)),
        (CHAT, b"<html>", (502, "upstream_bad_body", BROKEN)),
        (CHAT, b"[]", (502, "upstream_bad_body", BROKEN)),
        (CHAT, b"null", (502, "upstream_bad_body", BROKEN)),
        (CHAT, b'{"choices":[null]}', (502, "upstream_bad_body", BROKEN)),
        (CHAT, b'{"choices":[{"message":{}}],"x":' + b"[" * 100_000, (502, "upstream_bad_body", BROKEN)),
        (CHAT, b'{"choices":[{"message":{"content":"x', (502, "upstream_bad_body", BROKEN)),
        (CHAT, b'\xff{"choices":[]}', (502, "upstream_bad_body", BROKEN)),
        (CHAT, b"data: {}\n\n", (502, "upstream_bad_body", BROKEN)),
        (CHAT, b"{}", (502, "upstream_empty_answer", BROKEN)),
        (CHAT, b'{"choices":null}', (502, "upstream_empty_answer", BROKEN)),
        (CHAT, b'{"choices":[]}', (502, "upstream_empty_answer", BROKEN)),
        (CHAT, b'{"choices":[{"message":null}]}', (502, "upstream_empty_answer", BROKEN)),
        (CHAT, b'{"choices":[{"message":{"content":"a"}},{"index":1}]}', (502, "upstream_empty_answer", BROKEN)),
        (TEXT, b'{"choices":[{"text":null}]}', (502, "upstream_empty_answer", BROKEN)),
        (VECTORS, b'{"data":null}', (502, "upstream_empty_answer", BROKEN)),
        (CHAT, b'{"error":"boom"}', (502, "upstream_error", BROKEN)),
        (CHAT, b'{"error":{"message":"boom"},"choices":[{"message":{}}]}', (502, "upstream_error", BROKEN)),
        (CHAT, VLLM % (b"bad grammar", 400), (400, "invalid_request", FINE)),
        (CHAT, LLAMA_CONTEXT, (400, "context_length_exceeded", FINE)),
        (TEXT, b'{"error":{"message":"full","code":503}}', (503, "server_is_overloaded", BUSY)),
        (Operation.TOKENIZE, b'{"error":{"message":"boom","code":500}}', (502, "upstream_error", BROKEN)),
    ],
)
def test_a_200_that_is_no_answer_is_an_error(operation: Operation, body: bytes, expected: tuple[Any, ...]) -> None:
    """A09: no 2xx with an error body or null choices."""
    assert whole(operation, body) == expected


_GUESS = Usage(estimated=True)


@pytest.mark.parametrize(
    ("operation", "body", "usage", "reason"),
    [
        (CHAT, b'{"choices":[{"message":{}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}', Usage(1, 2), ""),
        (VECTORS, b'{"data":[],"usage":{"prompt_tokens":3,"prompt_tokens_details":null}}', Usage(3), ""),
        (CHAT, b'{"error":null,"choices":[{"message":{},"finish_reason":"stop"}],"usage":null}', _GUESS, "stop"),
        (TEXT, b'{"choices":[{"text":"","finish_reason":"length"}]}', _GUESS, "length"),
        (Operation.TOKENIZE, b'{"tokens":[1]}', _GUESS, ""),
        (Operation.DETOKENIZE, b'{"prompt":"x"}', _GUESS, ""),
    ],
)
def test_an_answer_tells_usage_and_finish_reason(operation: Operation, body: bytes, usage: Usage, reason: str) -> None:
    assert check_whole(operation, body) == (usage, reason)


def test_without_usage_a_longer_answer_is_estimated_as_more_tokens_and_flagged() -> None:
    """A06"""
    usages = [check_whole(TEXT, b'{"choices":[{"text":"%b"}]}' % (b"word " * n))[0] for n in (10, 20)]
    assert [usage.estimated for usage in usages] == [True, True]
    assert 5 <= usages[0].completion_tokens < usages[1].completion_tokens <= 40


@pytest.mark.parametrize(
    ("data", "status", "outcome"),
    [
        (VLLM % (b"Grammar error", 400), 400, FINE),
        (LLAMA_CONTEXT, 400, FINE),
        (FLAT % (b"bad", 422), 400, FINE),
        (b'{"error":{"message":"Context size has been exceeded.","code":500,"type":"server_error"}}', 502, BROKEN),
        (b'{"error":{"message":"busy","code":"503"}}', 503, BUSY),
        (b'{"error":{"message":"odd","code":200}}', 502, BROKEN),
        (b'{"error":{"message":"odd","code":99999999999999999999}}', 502, BROKEN),
        ('{"error":{"message":"odd","code":"²"}}'.encode(), 502, BROKEN),
        ('{"error":{"message":"odd","code":"٤٠٠"}}'.encode(), 502, BROKEN),
        (b'{"error":{"message":"odd","code":"teapot"}}', 502, BROKEN),
        (b'{"error":"overloaded","error_type":"overloaded"}', 502, BROKEN),
    ],
)
def test_an_error_event_means_what_its_code_says(data: bytes, status: int, outcome: Outcome) -> None:
    found = from_stream_error(Operation.CHAT, data)
    assert (found.error.status, found.outcome) == (status, outcome)


_RECORDED = [case for case in cases() if case.status >= 400]


@pytest.mark.parametrize("case", _RECORDED, ids=lambda case: case.id)
def test_recorded_refusals_keep_their_message(case: Case) -> None:
    """A09"""
    error = rejection(Operation.CHAT, case.status, case.headers, case.body).error
    told = json.loads(case.body)
    message = told["error"]["message"] if "error" in told else told["detail"]
    assert message in error.message
    assert not error.code.isdecimal()


@given(
    st.sampled_from(list(Operation)),
    st.integers(200, 599),
    st.binary(max_size=80) | st.text(max_size=40).map(str.encode),
)
@example(Operation.CHAT, 400, b"[" * 100_000)
@example(Operation.CHAT, 400, b'{"error":' + b"[" * 900 + b"]" * 900 + b"}")
@example(Operation.CHAT, 400, b'{"error":{"message":"\\ud800"}}')
@example(Operation.CHAT, 400, b'{"error":{"message":"\xff","code":"\xff"}}')
@example(Operation.CHAT, 400, b'{"error":{"\xff":1}}')
@example(Operation.CHAT, 400, b'{"error":{"message":{"a":1},"code":[1],"param":5}}')
@example(Operation.CHAT, 500, b"line one\nline two")
def test_no_body_of_an_engine_makes_the_gateway_fail(operation: Operation, status: int, body: bytes) -> None:
    for found in (rejection(operation, status, {}, body), from_stream_error(operation, body)):
        assert 400 <= found.error.status < 600
        assert found.error.status not in (401, 403, 404, 422)
        told = json.loads(found.error.body())["error"]
        assert len(told["message"]) < MAX_MESSAGE_CHARS + 200
    try:
        check_whole(operation, body)
    except Rejection as rejected:
        assert rejected.error.status >= 400


@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize(
    ("headers", "seconds", "ms"),
    [
        ({}, 1, 1000),
        ({b"retry-after": b"7"}, 7, 7000),
        ({b"retry-after": b"0"}, 1, 1),
        ({b"retry-after": b"1.5"}, 2, 1500),
        ({b"retry-after-ms": b"250", b"retry-after": b"9"}, 1, 250),
        ({b"retry-after-ms": b"soon", b"retry-after": b"9"}, 9, 9000),
        ({b"retry-after": b"3600"}, 120, 120_000),
        ({b"retry-after": b"-5"}, 1, 1000),
        ({b"retry-after": b"nan"}, 1, 1000),
        ({b"retry-after": b"inf"}, 1, 1000),
        ({b"retry-after": b"Wed, 21 Oct 2026 07:28:00 GMT"}, 1, 1000),
        ({b"retry-after": b"Wed, 21 Oct 2026 07:28:09 GMT", b"date": b"Wed, 21 Oct 2026 07:28:00 GMT"}, 9, 9000),
        ({b"retry-after": b"Wed, 21 Oct 2026 07:28:00 GMT", b"date": b"Wed, 21 Oct 2026 07:28:09 GMT"}, 1, 1000),
        ({b"retry-after": b"Wed, 21 Oct 2026 07:28:00 GMT", b"date": b"yesterday"}, 1, 1000),
    ],
)
def test_the_engines_wait_is_passed_on_within_bounds(
    status: int, headers: dict[bytes, bytes], seconds: int, ms: int
) -> None:
    """A20"""
    lines = rejection(Operation.CHAT, status, headers, b"").error.header_lines()
    assert lines == b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (seconds, ms)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (EngineTimeout("no answer", phase="connect", limit_s=1), 504, "connect_timeout"),
        (EngineTimeout("no answer", phase="ttft", limit_s=1), 504, "ttft_timeout"),
        (EngineTimeout("no answer", phase="idle", limit_s=1), 504, "idle_timeout"),
        (EngineTimeout("no answer", phase="total", limit_s=1), 504, "total_timeout"),
        (EngineUnreachable("refused by 10.0.0.7:8000"), 503, "no_healthy_backend"),
        (EngineDied("broke"), 502, "upstream_died"),
        (EngineProtocolError("bad chunk size b'secret'"), 502, "upstream_protocol_error"),
    ],
)
def test_a_failure_of_the_connection_becomes_an_error_without_addresses(
    error: EngineError, status: int, code: str
) -> None:
    found: ApiError = from_engine_error(error)
    assert (found.status, found.code) == (status, code)
    assert "10.0.0.7" not in found.message
    assert "secret" not in found.message
