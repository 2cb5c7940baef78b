"""Bodies in and out: what is read of them, what is refused, and what an engine sees of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engines.base import Operation
from gateway.errors import InvalidRequest
from gateway.http import Request
from gateway.wire import Call, body_for, read_call

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(["messages", "temperature", "Model", "MODEL", "models", "seed", "stream ", "usage"]) | st.text(
    max_size=5
)
_OPTIONS = st.sampled_from([None, {}, {"include_usage": False}, {"include_usage": None}, {"include_usage": True}])


def request(body: bytes, **headers: bytes) -> Request:
    named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return Request(b"POST", b"/v1/chat/completions", "/v1/chat/completions", named, [], body, "127.0.0.1")


def read(body: bytes | dict[str, Any], operation: Operation = Operation.CHAT) -> Call:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_call(operation, request(raw))


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    body: dict[str, Any] = draw(st.dictionaries(_KEYS, _JSON, max_size=5))
    body |= {"model": "m"}
    if draw(st.booleans()):
        body["stream"] = draw(st.sampled_from([True, False, None]))
    if draw(st.booleans()):
        options = draw(_OPTIONS)
        body["stream_options"] = options and options | draw(st.sampled_from([{}, {"include_obfuscation": 1.5e300}]))
    order = draw(st.permutations(list(body)))
    return {name: body[name] for name in order}


@given(bodies(), st.sampled_from(["m", "engine/m"]), st.booleans())
def test_json_in_is_json_out_but_for_the_documented_fields(body: dict[str, Any], model: str, ascii_only: bool) -> None:
    """A24"""
    raw = json.dumps(body, ensure_ascii=ascii_only).encode()
    call = read(raw)
    sent = json.loads(body_for(call, model))
    expected = {name: value for name, value in body.items() if name == "model" or name.lower() != "model"}
    assert list(sent)[: len(expected)] == list(expected)
    if call.adds_usage:
        options = dict(body.get("stream_options") or {}) | {"include_usage": True}
        assert sent == expected | {"model": model, "stream_options": options}
    else:
        assert sent == expected | {"model": model}
    assert read(body_for(call, "m")).wants_usage is (call.wants_usage or call.adds_usage)


@pytest.mark.parametrize(
    "value",
    [
        b"123456789012345678901234567890.000000000000000000001",
        b"-0.0",
        b"1E+400",
        b"1e-400",
        b'"\\u00e9\\/\\ud83d\\ude00\\b"',
        b'[ 1 ,\t2,\n{"b":1,"a":2,"a":3} ]',
        b'{"model":"inner","stream_options":{"include_usage":false}}',
        '"é😀"'.encode(),
    ],
)
def test_values_that_the_gateway_does_not_touch_keep_every_byte(value: bytes) -> None:
    """A24"""
    raw = b'{"z":%b,"model":"m","stream":true,"a":%b,"stream_options":{"x":%b}}' % (value, value, value)
    expected = b'{"z":%b,"model":"e","stream":true,"a":%b,"stream_options":{"x":%b,"include_usage":true}}'
    assert body_for(read(raw), "e") == expected % (value, value, value)


def test_a_body_that_needs_no_change_is_the_same_object() -> None:
    call = read(b'{ "model" : "m" , "messages":[] }')
    assert body_for(call, "m") is call.body


@pytest.mark.parametrize("options", [b"null", b"{}", b'{"include_usage":false}', b'{"include_usage":null}'])
def test_usage_is_asked_for_when_the_caller_did_not(options: bytes) -> None:
    """A06"""
    call = read(b'{"model":"m","stream":true,"stream_options":%b}' % options)
    assert call.adds_usage
    assert json.loads(body_for(call, "m"))["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("operation", "fields", "adds"),
    [
        (Operation.CHAT, {"stream": True}, True),
        (Operation.COMPLETIONS, {"stream": True}, True),
        (Operation.CHAT, {"stream": True, "stream_options": {"include_usage": True}}, False),
        (Operation.CHAT, {"stream": False}, False),
        (Operation.CHAT, {"stream": None}, False),
        (Operation.CHAT, {}, False),
        (Operation.EMBEDDINGS, {"stream": True}, False),
        (Operation.TOKENIZE, {"stream": True}, False),
    ],
)
def test_usage_is_added_to_streams_alone(operation: Operation, fields: dict[str, Any], adds: bool) -> None:
    call = read({"model": "m"} | fields, operation)
    assert call.adds_usage is adds


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"other","model":"m"}',
        b'{"mod\\u0065l":"other","model":"m"}',
        b'{"\\u006dodel":"other","model":"m"}',
        b'{"MODEL":"other","model":"m"}',
        b'{"model":"m","Model":"other"}',
        b'{"model":"m","\\u004dodel":"other"}',
        b'{"model":"m","MODEL":"other","stream":true}',
    ],
)
@pytest.mark.parametrize("engine_model", ["m", "e"])
def test_the_engine_sees_the_one_model_that_was_checked(raw: bytes, engine_model: str) -> None:
    """A key written twice, with an escape or in other case must not name a second model to any JSON reader."""
    call = read(raw)
    assert call.model == "m"
    pairs = json.loads(body_for(call, engine_model), object_pairs_hook=list)
    assert [value for name, value in pairs if name.lower() == "model"] == [engine_model]


def test_of_a_model_named_twice_the_last_counts() -> None:
    assert read(b'{"model":"first","model":"last"}').model == "last"
    assert read(b'{"model":"first","mod\\u0065l":"last"}').model == "last"


@given(st.binary(max_size=60) | _JSON.map(lambda value: json.dumps(value).encode()))
@example(b"")
@example(b"null")
@example(b"\xef\xbb\xbf{}")
@example(b"[" * 100_000)
@example(b'{"model":"m","x":' + b"[" * 100_000)
@example(b'{"model":"m","x":' + b'{"a":' * 100_000)
@example(b'{"model":' + b"9" * 5000 + b"}")
@example(b'{"model":"\\ud800"}')
@example(b'{"model":"\xff"}')
@example(b'{"model":"m"}{}')
@example(b"{'model':'m'}")
@example(b'{"model":"m","x":NaN}')
def test_any_bytes_are_a_call_or_an_invalid_request(body: bytes) -> None:
    try:
        call = read(body)
    except InvalidRequest as error:
        assert error.status == 400
        assert json.loads(error.body())["error"]["message"]
    else:
        assert call.model


@given(st.binary(max_size=12), st.binary(max_size=12), st.booleans())
@example(b"\xff", b"", False)
@example(b"\\ud800", b"", False)
@example(b"", b"\xff", True)
@example(b'":' + b"[" * 970 + b"]" * 970 + b',"', b"", True)
def test_a_call_that_was_read_makes_a_body_or_an_invalid_request(key: bytes, inner: bytes, stream: bool) -> None:
    raw = b'{"%b":1,"model":"m","stream":%b,"stream_options":{"%b":1}}' % (key, b"true" if stream else b"false", inner)
    try:
        assert b"model" in body_for(read(raw), "e")
    except InvalidRequest as error:
        assert error.status == 400


def test_a_body_that_is_read_near_the_end_of_the_stack_is_not_our_failure() -> None:
    def deeper(levels: int) -> bytes:
        return deeper(levels - 1) if levels else body_for(call, "e")

    call = read(b'{"model":"m","x":' + b"[" * 800 + b"]" * 800 + b"}")
    with pytest.raises(InvalidRequest) as caught:
        deeper(300)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b'"m"', "invalid_json", None),
        (b"{}", "missing_required_parameter", "model"),
        (b'{"model":""}', "missing_required_parameter", "model"),
        (b'{"model":null}', "invalid_type", "model"),
        (b'{"model":7}', "invalid_type", "model"),
        (b'{"model":"m","stream":"yes"}', "invalid_type", "stream"),
        (b'{"model":"m","stream":1}', "invalid_type", "stream"),
        (b'{"model":"m","stream_options":[]}', "invalid_type", "stream_options"),
        (b'{"model":"m","stream_options":{"include_usage":1}}', "invalid_type", "stream_options"),
    ],
)
def test_a_refusal_names_the_field(body: bytes, code: str, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(body)
    assert (caught.value.code, caught.value.param) == (code, param)


def test_a_compressed_body_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="'gzip' is not supported") as caught:
        read_call(Operation.CHAT, request(b"\x1f\x8b", content_encoding=b"gzip"))
    assert caught.value.code == "unsupported_content_encoding"
    assert read_call(Operation.CHAT, request(b'{"model":"m"}', content_encoding=b"Identity")).model == "m"
