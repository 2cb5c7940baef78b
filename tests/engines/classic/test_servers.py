"""What each kind asks by default, what it can be told, and how it is known to be well."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engines.adapter import CannotSay
from engines.base import EngineProtocolError, EngineRequest, Operation
from engines.classic import azureml, kserve, tfserving, torchserve
from engines.classic.refusals import message_in, type_in
from engines.classic.translator import ClassicExchange, Server
from engines.outbox import Outbox
from gateway.config import EngineOptions
from gateway.config.template_options import TemplateOptions
from gateway.engine_kinds import make_engine
from gateway.kinds.classic import translator_for
from tests.engines.server import Peer, engine_server

Json = dict[str, Any]


def begun(
    server: Server, operation: Operation = Operation.CHAT, template: Json | None = None, **body: Any
) -> ClassicExchange:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | body
    request = EngineRequest(operation, json.dumps(body).encode(), stream=bool(body.get("stream")))
    return translator_for(server, TemplateOptions.model_validate(template or {})).begin(request)


@pytest.mark.parametrize(
    ("server", "model", "path"),
    [
        (kserve.SERVER, "a/b", "/v2/models/a%2Fb/generate"),
        (kserve.SERVER, "a@2", "/v2/models/a/versions/2/generate"),
        (tfserving.SERVER, "a", "/v1/models/a:predict"),
        (tfserving.SERVER, "a@2", "/v1/models/a/versions/2:predict"),
        (tfserving.SERVER, "a#canary", "/v1/models/a/labels/canary:predict"),
        (torchserve.SERVER, "a", "/predictions/a"),
        (torchserve.SERVER, "a@1.0", "/predictions/a/1.0"),
        (azureml.SERVER, "a@blue", "/score"),
    ],
)
def test_a_model_name_leads_to_its_version_or_label(server: Server, model: str, path: str) -> None:
    assert begun(server, model=model).wire.path == path


def test_only_a_named_azure_deployment_is_asked_for() -> None:
    assert begun(azureml.SERVER, model="a").wire.headers == {}
    assert begun(azureml.SERVER, model="a@blue").wire.headers == {"azureml-model-deployment": "blue"}


@pytest.mark.parametrize(("stop", "sent"), [("x", "x"), (["x"], "x"), (["x", "y"], ["x", "y"]), (None, None)])
def test_triton_gets_one_stop_text_as_text(stop: object, sent: object) -> None:
    parameters = json.loads(begun(kserve.SERVER, stop=stop).wire.body)["parameters"]
    assert parameters.get("stop") == sent


def test_the_newer_name_of_max_tokens_counts() -> None:
    parameters = json.loads(begun(kserve.SERVER, max_tokens=1, max_completion_tokens=2).wire.body)["parameters"]
    assert parameters["max_tokens"] == 2


def test_parts_of_a_message_are_one_text_and_names_stay() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [{"role": "user", "name": "Ada", "content": parts}, {"role": "assistant", "content": None}]
    asked = json.loads(begun(azureml.SERVER, messages=messages).wire.body)["input_data"]["input_string"]
    assert asked == [{"role": "user", "content": "one\ntwo", "name": "Ada"}, {"role": "assistant", "content": ""}]


@pytest.mark.parametrize(
    ("operation", "fields", "param", "code"),
    [
        (Operation.CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "messages", "unsupported_parameter"),
        (Operation.CHAT, {"functions": [{}]}, "functions", "unsupported_parameter"),
        (Operation.CHAT, {"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        (Operation.COMPLETIONS, {"prompt": ["a", "b"]}, "prompt", "unsupported_parameter"),
        (Operation.COMPLETIONS, {"prompt": [1, 2]}, "prompt", "invalid_type"),
        (Operation.COMPLETIONS, {"prompt": "a", "echo": True}, "echo", "unsupported_parameter"),
        (Operation.COMPLETIONS, {"prompt": "a", "best_of": 2}, "best_of", "unsupported_parameter"),
        (Operation.COMPLETIONS, {"prompt": "a", "suffix": "b"}, "suffix", "unsupported_parameter"),
        (Operation.EMBEDDINGS, {"input": []}, "input", "missing_required_parameter"),
        (Operation.EMBEDDINGS, {"input": "a", "dimensions": 8}, "dimensions", "unsupported_parameter"),
        (Operation.TOKENIZE, {"prompt": "a"}, None, "unsupported_operation"),
    ],
)
def test_what_cannot_be_said_is_refused(operation: Operation, fields: Json, param: str | None, code: str) -> None:
    with pytest.raises(CannotSay) as caught:
        begun(tfserving.SERVER, operation, **fields)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_what_a_template_names_may_be_asked() -> None:
    template = {"request": {"format": "{{ response_format.type }}", "stop": "{{ stop }}"}}
    exchange = begun(tfserving.SERVER, template=template, response_format={"type": "json_object"}, stop="a")
    assert json.loads(exchange.wire.body) == {"format": "json_object", "stop": ["a"]}
    begun(tfserving.SERVER, response_format={"type": "text"}, stop=[], n=1, modalities=["text"], logprobs=False)


def test_a_template_that_makes_no_json_is_told() -> None:
    with pytest.raises(CannotSay, match="no JSON"):
        begun(tfserving.SERVER, template={"request": {"a": "{{ raise_exception }}"}})


def test_one_prompt_in_a_list_is_a_prompt() -> None:
    body = begun(tfserving.SERVER, Operation.COMPLETIONS, prompt=["once"]).wire.body
    assert json.loads(body) == {"instances": ["once"]}


def test_the_stream_of_a_template_has_its_own_path() -> None:
    template = {"path": "/a/{{ model }}", "stream_path": "/b/{{ model }}", "stream": "sse", "stream_answer": "t"}
    assert begun(kserve.SERVER, template=template).wire.path == "/a/m"
    exchange = begun(kserve.SERVER, template=template, stream=True)
    assert exchange.wire.path == "/b/m"
    assert b'"so"' in exchange.stream().feed(b'data: {"t": "so"}\n\n')
    assert begun(kserve.SERVER, template={"path": "/a"}, stream=True).wire.path == "/a"


WHOLE = [
    (tfserving.SERVER, b'{"predictions": ["t"]}', "t"),
    (tfserving.SERVER, b'{"outputs": ["t"]}', "t"),
    (kserve.SERVER, b'{"outputs": [{"data": ["t"]}]}', "t"),
    (torchserve.SERVER, b'[{"generated_text": "t"}]', "t"),
    (torchserve.SERVER, b"plain text", "plain text"),
    (torchserve.SERVER, b'"a \\"string\\""', 'a "string"'),
    (torchserve.SERVER, b'"half', '"half'),
    (azureml.SERVER, b'[{"0": "t"}]', "t"),
    (azureml.SERVER, b'"t"', "t"),
    (azureml.SERVER, b'"{\\"output\\": \\"t\\"}"', "t"),
    (azureml.SERVER, b'"{\\"a\\": 1}"', '{"a": 1}'),
    (azureml.SERVER, b'"{ not json"', "{ not json"),
]


@pytest.mark.parametrize(("server", "body", "text"), WHOLE)
def test_the_usual_answers_need_no_template(server: Server, body: bytes, text: str) -> None:
    assert json.loads(begun(server).whole(body))["choices"][0]["message"]["content"] == text


def test_an_empty_path_is_the_whole_body() -> None:
    exchange = begun(torchserve.SERVER, template={"answer": ""})
    assert json.loads(exchange.whole(b'{"text": 1}'))["choices"][0]["message"]["content"] == '{"text": 1}'


def test_an_answer_that_is_no_json_breaks_the_protocol() -> None:
    with pytest.raises(EngineProtocolError):
        begun(kserve.SERVER).whole(b"<html>")


def test_embeddings_that_are_none_are_an_error() -> None:
    exchange = begun(tfserving.SERVER, Operation.EMBEDDINGS, input=["a", "b"])
    assert "1 embeddings for 2 inputs" in json.loads(exchange.whole(b'{"predictions": [[1.0]]}'))["error"]["message"]
    assert json.loads(exchange.whole(b'{"error": ""}'))["error"]["message"].startswith('"predictions" leads nowhere')


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": "a"}', "a"),
        (b'{"error": {"message": "b"}}', "b"),
        (b'{"code": 1, "type": "T", "message": "c"}', "c"),
        (b'{"detail": [{"msg": "d"}]}', '[{"msg": "d"}]'),
        (b"plain", "plain"),
        (b"<html>", ""),
        (b"\xff\x00", ""),
        (b'{"error": 3}', ""),
        (b"[]", "[]"),
    ],
)
def test_errors_are_found_in_every_shape(body: bytes, message: str) -> None:
    assert message_in(body) == message
    assert type_in(body) == ("T" if b'"T"' in body else "")


def test_a_refusal_without_words_names_the_status() -> None:
    status, body = begun(kserve.SERVER).refusal(502, {}, b"")
    assert status == 502
    assert json.loads(body)["error"]["message"] == "The server answered with status 502."


@pytest.mark.parametrize(
    ("kind", "path", "status", "well"),
    [
        ("kserve", "/v2/health/ready", 200, True),
        ("kserve", "/v2/health/ready", 400, False),
        ("torchserve", "/ping", 200, True),
        ("torchserve", "/ping", 500, False),
        ("tfserving", "/v1/models", 400, True),
        ("tfserving", "/v1/models", 503, False),
        ("azureml", "/", 401, True),
    ],
)
async def test_each_kind_is_asked_for_its_health_in_its_own_way(kind: str, path: str, status: int, well: bool) -> None:
    seen: list[bytes] = []

    async def answer(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.send(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\n{}" % status)
        await peer.closed()

    async with engine_server(answer) as url:
        engine = make_engine(EngineOptions.model_validate({"kind": kind}), "e", url, Outbox())
        assert await engine.healthy() is well
        await engine.aclose()
    assert seen[0].startswith(f"GET {path} ".encode())


async def test_a_server_that_is_not_there_is_not_well() -> None:
    engine = make_engine(EngineOptions.model_validate({"kind": "tfserving"}), "e", "http://127.0.0.1:1", Outbox())
    assert not await engine.healthy()
