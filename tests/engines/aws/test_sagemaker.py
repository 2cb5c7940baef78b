"""SageMaker endpoints: bodies pass, payload parts are joined to whole events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engines.adapter import DONE, Exchange
from engines.aws import sagemaker
from engines.aws.sagemaker import SageMakerTranslator
from engines.base import EngineDied, EngineProtocolError, EngineRequest, Operation
from tests.engines.aws.conversation import refused, request
from tests.engines.aws.wire import event, exception, failure, part


def begun(model: str = "llama", **fields: Any) -> Exchange:
    return SageMakerTranslator().begin(request(model=model, messages=[], **fields))


def streamed(*pieces: bytes) -> bytes:
    reader = begun(stream=True).stream()
    return b"".join(reader.feed(piece) for piece in pieces) + reader.finish()


EVENTS = b'data: {"a": "\xc3\xbc"}\n\ndata: {"b": 1}\n\ndata: [DONE]\n\n'
LINES = b'{"a": 1}\n{"b": "x"}\n'


def test_the_endpoint_stands_in_the_path_and_the_rest_of_the_body_passes() -> None:
    body = b'{"model": "llama", "messages": [], "temperature": 0.10, "x": {"y": [1e3]}}'
    wire = SageMakerTranslator().begin(EngineRequest(Operation.CHAT, body)).wire
    assert wire.path == "/endpoints/llama/invocations"
    assert wire.body == b'{"messages":[],"temperature":0.10,"x":{"y": [1e3]}}'
    assert begun(stream=True).wire.path == "/endpoints/llama/invocations-response-stream"


def test_a_name_that_the_container_knows_follows_the_endpoint() -> None:
    wire = begun("llama/team/adapter").wire
    assert wire.path == "/endpoints/llama/invocations"
    assert json.loads(wire.body)["model"] == "team/adapter"


@pytest.mark.parametrize("operation", [Operation.COMPLETIONS, Operation.EMBEDDINGS])
def test_containers_know_the_operation_by_its_body(operation: Operation) -> None:
    assert SageMakerTranslator().begin(request(operation, prompt="x")).wire.path.endswith("/invocations")


@pytest.mark.parametrize("operation", [Operation.TOKENIZE, Operation.DETOKENIZE])
def test_tokenizing_is_not_offered(operation: Operation) -> None:
    assert refused(request(operation), SageMakerTranslator()).code == "unsupported_operation"


def test_a_whole_answer_passes_as_it_is() -> None:
    assert begun().whole(b'{"choices": []}') == b'{"choices": []}'


@pytest.mark.parametrize("at", range(len(EVENTS)))
def test_parts_cut_at_every_byte_are_whole_events_again(at: int) -> None:
    reader = begun(stream=True).stream()
    first, second = reader.feed(part(EVENTS[:at])), reader.feed(part(EVENTS[at:]))
    assert first + second + reader.finish() == EVENTS
    assert not first or first.endswith(b"\n\n")


def test_frames_and_parts_may_be_cut_at_once() -> None:
    frames = b"".join(part(EVENTS[at : at + 5]) for at in range(0, len(EVENTS), 5))
    assert streamed(*(frames[at : at + 7] for at in range(0, len(frames), 7))) == EVENTS


@pytest.mark.parametrize("mark", [b"\r\n\r\n", b"\r\r"])
def test_other_ends_of_lines_are_ends_too(mark: bytes) -> None:
    assert streamed(part(b"data: 1" + mark + b"data: 2" + mark)) == b"data: 1" + mark + b"data: 2" + mark


def test_lines_of_json_become_events() -> None:
    told = b'data: {"a": 1}\n\ndata: {"b": "x"}\n\n' + DONE
    assert streamed(part(LINES)) == told
    assert streamed(part(LINES[:-1])) == told, "the last line may lack its end"
    assert streamed(*(part(bytes([byte])) for byte in LINES)) == told
    assert streamed(part(b"\n" + LINES)) == told


def test_a_part_that_is_empty_or_an_event_that_is_unknown_says_nothing() -> None:
    assert streamed(part(b""), event("somethingNew"), part(EVENTS)) == EVENTS
    assert streamed(part(b"\n\n")) == b"\n\n"


@pytest.mark.parametrize("rest", [b"data: [DONE]", b"data:[DONE]", b"data: {}\n", b"data: {}\r\n"])
def test_a_last_event_may_lack_its_end(rest: bytes) -> None:
    assert streamed(part(EVENTS + rest)) == EVENTS + rest + b"\n\n"


def test_an_end_inside_an_event_is_a_death() -> None:
    with pytest.raises(EngineDied, match="into an event"):
        streamed(part(EVENTS + b'data: {"half'))
    with pytest.raises(EngineDied, match="into a message"):
        streamed(part(EVENTS)[:-1])


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sagemaker, "MAX_EVENT_BYTES", 100)
    reader = begun(stream=True).stream()
    assert reader.feed(part(b"data: " + b"x" * 90)) == b""
    with pytest.raises(EngineProtocolError, match="over 100 bytes"):
        reader.feed(part(b"x" * 90))


@pytest.mark.parametrize(
    ("failed", "status"),
    [
        (exception("ModelStreamError", Message="it broke", ErrorCode="StreamBroken"), 502),
        (exception("InternalStreamFailure", Message="it broke"), 500),
        (failure("Throttling", "it broke"), 429),
    ],
)
def test_an_error_comes_after_whole_events_only(failed: bytes, status: int) -> None:
    stream = streamed(part(EVENTS[:30]) + failed + part(EVENTS[30:]))
    events = stream.split(b"\n\n")
    assert events[0] == EVENTS.split(b"\n\n")[0] and len(events) == 3
    error = json.loads(events[1].removeprefix(b"data: "))["error"]
    assert (error["message"], error["code"]) == ("it broke", status)


def model_error(status: int, text: str) -> bytes:
    told = {"ErrorCode": "CLIENT_ERROR", "LogStreamArn": "arn", "Message": "Received client error"}
    return json.dumps(told | {"OriginalMessage": text, "OriginalStatusCode": status}).encode()


@pytest.mark.parametrize("status", [400, 422, 429, 500, 503])
def test_what_the_container_refused_is_told_in_its_own_words(status: int) -> None:
    own = '{"error": {"message": "maximum context length is 4096"}}'
    headers = {b"x-amzn-errortype": b"ModelError"}
    assert begun().refusal(424, headers, model_error(status, own)) == (status, own.encode())


def test_an_endpoint_that_does_not_exist_is_a_wrong_model() -> None:
    body = b'{"Message": "Endpoint llama of account 1 not found."}'
    status, told = begun().refusal(400, {b"x-amzn-errortype": b"ValidationError"}, body)
    assert status == 404 and b"model not found" in told


@pytest.mark.parametrize(
    ("status", "name", "body", "told"),
    [
        (400, "ValidationError", b'{"Message": "bad"}', 400),
        (400, "ThrottlingException", b'{"Message": "slow"}', 429),
        (503, "ServiceUnavailable", b"{}", 503),
        (530, "InternalDependencyException", b"{}", 502),
        (429, "ModelNotReadyException", b"{}", 503),
        (500, "InternalFailure", b"{}", 500),
        (424, "ModelError", model_error(0, "the container hangs"), 502),
        (424, "ModelError", b"\xff", 502),
    ],
)
def test_what_the_service_refused_is_told_by_its_name(status: int, name: str, body: bytes, told: int) -> None:
    assert begun().refusal(status, {b"x-amzn-errortype": name.encode()}, body)[0] == told
