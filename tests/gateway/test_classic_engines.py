"""Classic model servers behind the gateway, asked by the official client; the test is the server, byte for byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.clients.talk import client_of, said
from tests.harness import (
    CHAT,
    MODEL,
    HandEngine,
    Json,
    Server,
    Turn,
    chat,
    config_of,
    engine_by_hand,
    events_in,
    framed,
    serving,
    streamed,
    text_in,
    whole,
)

TEXT = "Grüß Gott 🌍"
PROMPT = "<|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\n"
SSE = "text/event-stream; charset=utf-8"


def sse(*events: Json) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(event, ensure_ascii=False).encode() for event in events)


@dataclass(frozen=True)
class Peer:
    """How one kind of server is asked, and how it answers; `stream` is the body of an answer that comes in pieces."""

    kind: str
    model: str
    path: str
    asked: Json
    answer: Json
    embeddings_path: str
    embeddings_asked: Json
    embeddings: Json
    stream_path: str
    stream: bytes
    content_type: str = "application/json"

    def __str__(self) -> str:
        return self.kind


KSERVE = Peer(
    kind="kserve",
    model="llm@3",
    path="/v2/models/llm/versions/3/generate",
    asked={
        "text_input": PROMPT,
        "parameters": {"max_tokens": 7, "temperature": 0.5, "stream": False, "exclude_input_in_output": True},
    },
    answer={"model_name": "llm", "model_version": "3", "text_output": TEXT},
    embeddings_path="/v2/models/llm/versions/3/infer",
    embeddings_asked={"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [2, 1], "data": ["a", "b"]}]},
    embeddings={"outputs": [{"name": "e", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 0.5, -1.0, 2.0]}]},
    stream_path="/v2/models/llm/versions/3/generate_stream",
    stream=sse({"text_output": TEXT[:3]}, {"text_output": TEXT[3:]}, {"text_output": ""}, {"triton_final": True}),
    content_type=SSE,
)
TFSERVING = Peer(
    kind="tfserving",
    model="llm#stable",
    path="/v1/models/llm/labels/stable:predict",
    asked={"instances": [PROMPT]},
    answer={"predictions": [TEXT]},
    embeddings_path="/v1/models/llm/labels/stable:predict",
    embeddings_asked={"instances": ["a", "b"]},
    embeddings={"predictions": [[1.0, 0.5], [-1.0, 2.0]]},
    stream_path="/v1/models/llm/labels/stable:predict",
    stream=json.dumps({"predictions": [TEXT]}).encode(),
)
TORCHSERVE = Peer(
    kind="torchserve",
    model="llm@2.0",
    path="/predictions/llm/2.0",
    asked={"prompt": PROMPT, "max_tokens": 7, "temperature": 0.5, "stream": False},
    answer={"text": TEXT},
    embeddings_path="/predictions/llm/2.0",
    embeddings_asked={"input": ["a", "b"]},
    embeddings={"embeddings": [[1.0, 0.5], [-1.0, 2.0]]},
    stream_path="/predictions/llm/2.0",
    stream=TEXT.encode(),
    content_type="text/plain",
)
AZUREML = Peer(
    kind="azureml",
    model="llm@blue",
    path="/score",
    asked={
        "input_data": {
            "input_string": [{"role": "user", "content": "hello there"}],
            "parameters": {"max_new_tokens": 7, "temperature": 0.5},
        }
    },
    answer={"output": TEXT},
    embeddings_path="/score",
    embeddings_asked={"input_data": {"input_string": ["a", "b"]}},
    embeddings={"output": [[1.0, 0.5], [-1.0, 2.0]]},
    stream_path="/score",
    stream=json.dumps({"output": TEXT}).encode(),
)
PEERS = [KSERVE, TFSERVING, TORCHSERVE, AZUREML]
every_kind = pytest.mark.parametrize("peer", PEERS, ids=str)


@asynccontextmanager
async def behind(peer: Peer, **options: Any) -> AsyncIterator[tuple[HandEngine, Server, openai.AsyncOpenAI]]:
    engine = {"kind": peer.kind, **options}
    async with (
        engine_by_hand() as hand,
        serving(config_of(hand.url, engine=engine, model=peer.model)) as server,
        client_of(server) as client,
    ):
        yield hand, server, client


def path_of(turn: Turn) -> str:
    return turn.head.split(" ")[1]


def streaming_head(content_type: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n".encode()


@every_kind
async def test_a_chat_is_put_into_the_servers_form_and_its_text_comes_back(peer: Peer) -> None:
    async with behind(peer) as (hand, server, client):
        asking = client.chat.completions.create(model=MODEL, messages=said(), max_tokens=7, temperature=0.5)
        task = asyncio.create_task(asking)
        turn = await hand.turn()
        assert path_of(turn) == peer.path
        assert turn.json == peer.asked
        turn.send(whole(json.dumps(peer.answer).encode()))
        answer = await task
        assert answer.choices[0].message.content == TEXT
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].finish_reason == "stop"
        (record,) = await server.records()
        assert record["estimated"] is True
        assert record["tokens_in"] > 5
        assert record["tokens_out"] > 2


@every_kind
async def test_a_streamed_chat_comes_in_the_servers_pieces(peer: Peer) -> None:
    async with behind(peer) as (hand, server, client):
        stream = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=said(), stream=True))
        turn = await hand.turn()
        assert path_of(turn) == peer.stream_path
        turn.send(streaming_head(peer.content_type), framed(peer.stream))
        turn.end()
        chunks = [chunk async for chunk in await stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
        assert len({chunk.id for chunk in chunks}) == 1
        (record,) = await server.records()
        assert record["estimated"] is True
        assert record["finish_reason"] == "stop"


@every_kind
async def test_streams_are_read_wherever_they_are_cut(peer: Peer) -> None:
    async with behind(peer) as (hand, server, _):
        async with server.asking(streamed()) as wire:
            turn = await hand.turn()
            turn.send(streaming_head(peer.content_type))
            for byte in peer.stream:
                turn.send(framed(bytes([byte])))
                await asyncio.sleep(0)
            turn.end()
            answer = await wire.answer()
        assert answer.status == 200
        assert text_in(answer.body) == TEXT
        assert events_in(answer.body)[-1] == "[DONE]"
        assert "�" not in answer.body.decode()


async def test_a_text_is_streamed_as_it_comes() -> None:
    async with behind(TORCHSERVE) as (hand, _server, client):
        stream = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=said(), stream=True))
        turn = await hand.turn()
        turn.send(streaming_head("text/plain"), framed(b"one "))
        chunks = aiter(await stream)
        assert [(await anext(chunks)).choices[0].delta.content for _ in range(2)] == ["", "one "]
        turn.send(framed(b"two"))
        assert (await anext(chunks)).choices[0].delta.content == "two"
        turn.end()
        assert [chunk.choices[0].finish_reason async for chunk in chunks] == ["stop"]


@every_kind
async def test_embeddings_come_back_in_order(peer: Peer) -> None:
    async with behind(peer) as (hand, server, client):
        task = asyncio.create_task(client.embeddings.create(model=MODEL, input=["a", "b"]))
        turn = await hand.turn()
        assert path_of(turn) == peer.embeddings_path
        assert turn.json == peer.embeddings_asked
        turn.send(whole(json.dumps(peer.embeddings).encode()))
        answer = await task
        assert [one.embedding for one in answer.data] == [[1.0, 0.5], [-1.0, 2.0]]
        (record,) = await server.records()
        assert record["estimated"] is True


@every_kind
async def test_a_completion_asks_with_its_own_prompt(peer: Peer) -> None:
    async with behind(peer) as (hand, _server, client):
        task = asyncio.create_task(client.completions.create(model=MODEL, prompt="Once upon"))
        turn = await hand.turn()
        assert "Once upon" in turn.body.decode()
        assert "im_start" not in turn.body.decode()
        turn.send(whole(json.dumps(peer.answer).encode()))
        assert (await task).choices[0].text == TEXT


async def test_azure_ml_is_told_the_deployment_and_the_key() -> None:
    async with behind(AZUREML, api_key="aml-key") as (hand, _server, client):
        task = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=said()))
        turn = await hand.turn()
        headers = {name.lower(): value for name, value in turn.headers.items()}
        assert headers["authorization"] == "Bearer aml-key"
        assert headers["azureml-model-deployment"] == "blue"
        turn.send(whole(json.dumps(json.dumps(AZUREML.answer)).encode()))
        assert (await task).choices[0].message.content == TEXT


@pytest.mark.parametrize(
    ("peer", "status", "body", "expected", "code", "said_by"),
    [
        (KSERVE, "400 Bad Request", {"error": "unexpected shape"}, 400, None, "unexpected shape"),
        (
            KSERVE,
            "400 Bad Request",
            {"error": "Request for unknown model: 'llm' is not found"},
            502,
            "upstream_model_not_found",
            "unknown model",
        ),
        (KSERVE, "400 Bad Request", {"error": "Exceeds maximum queue size"}, 503, None, "maximum queue size"),
        (KSERVE, "500 Internal Server Error", {"error": "CUDA error"}, 502, None, "CUDA error"),
        (
            TFSERVING,
            "404 Not Found",
            {"error": "Servable not found for request: Latest(llm)"},
            502,
            "upstream_model_not_found",
            "Servable not found",
        ),
        (TFSERVING, "400 Bad Request", {"error": "Failed to process element: 0"}, 400, None, "Failed to process"),
        (
            TORCHSERVE,
            "503 Service Unavailable",
            {"code": 503, "type": "ServiceUnavailableException", "message": 'Model "llm" has no worker'},
            503,
            None,
            "no worker",
        ),
        (
            TORCHSERVE,
            "503 Service Unavailable",
            {"code": 503, "type": "InternalServerException", "message": "Prediction failed"},
            502,
            None,
            "Prediction failed",
        ),
        (
            TORCHSERVE,
            "404 Not Found",
            {"code": 404, "type": "ModelNotFoundException", "message": "Model not found: llm"},
            502,
            "upstream_model_not_found",
            "Model not found",
        ),
        (AZUREML, "401 Unauthorized", {"message": "key_auth_access_denied"}, 502, "upstream_auth", "credentials"),
        (AZUREML, "404 Not Found", {}, 502, "upstream_model_not_found", "no such deployment"),
        (AZUREML, "429 Too Many Requests", {"message": "Too many pending requests"}, 429, None, "pending"),
        (AZUREML, "500 Internal Server Error", {"message": "boom"}, 502, None, "boom"),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_what_a_server_says_in_place_of_an_answer_is_passed_on(
    peer: Peer, status: str, body: Json, expected: int, code: str | None, said_by: str
) -> None:
    async with behind(peer) as (hand, server, _client):
        for ask in (chat(), streamed()):
            task = asyncio.create_task(server.post(CHAT, ask))
            turn = await hand.turn()
            turn.send(whole(json.dumps(body).encode(), status))
            answer = await task
            assert answer.status_code == expected
            assert said_by in answer.json()["error"]["message"]
            assert code is None or answer.json()["error"]["code"] == code


async def test_azure_ml_says_424_and_means_what_its_model_said() -> None:
    async with behind(AZUREML) as (hand, server, _client):
        for inner, expected in (("400", 400), ("503", 503), ("500", 502), ("x", 502)):
            task = asyncio.create_task(server.post(CHAT, chat()))
            turn = await hand.turn()
            lines = (f"ms-azureml-model-error-statuscode: {inner}", "ms-azureml-model-error-reason: no such luck")
            turn.send(whole(b"", "424 Failed Dependency", *lines))
            answer = await task
            assert answer.status_code == expected
            assert "no such luck" in answer.json()["error"]["message"]


async def test_a_full_server_is_passed_over_for_another_one() -> None:
    async with engine_by_hand() as one, engine_by_hand() as other:
        config = config_of(one.url, other.url, engine={"kind": "kserve"}, policy="round_robin")
        async with serving(config) as server:
            task = asyncio.create_task(server.post(CHAT, chat()))
            turns = {asyncio.create_task(hand.turn()) for hand in (one, other)}
            (first,), (second,) = await asyncio.wait(turns, return_when=asyncio.FIRST_COMPLETED)
            first.result().send(whole(b'{"error":"Exceeds maximum queue size"}', "503 Service Unavailable"))
            (await second).send(whole(json.dumps(KSERVE.answer).encode()))
            assert (await task).json()["choices"][0]["message"]["content"] == TEXT


async def test_an_error_inside_a_stream_ends_it_as_an_error() -> None:
    async with behind(KSERVE) as (hand, _server, client):
        stream = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=said(), stream=True))
        turn = await hand.turn()
        turn.send(streaming_head(SSE), framed(sse({"text_output": "So"}, {"error": "in the model: out of memory"})))
        turn.end()
        with pytest.raises(openai.APIError, match="out of memory"):
            async for _ in await stream:
                pass


async def test_a_server_that_dies_within_its_answer_is_told_in_the_stream() -> None:
    async with behind(TORCHSERVE) as (hand, server, _client):
        async with server.asking(streamed()) as wire:
            turn = await hand.turn()
            turn.send(streaming_head("text/plain"), framed(b"half of it"))
            await wire.read_head()
            turn.close()
            body = await wire.read_body()
        assert text_in(body.partition(b'data: {"error"')[0]) == "half of it"
        assert "upstream_died" in events_in(body)[-1]


@every_kind
async def test_a_client_that_hangs_up_frees_the_server(peer: Peer) -> None:
    """A01, for servers that are translated."""
    async with behind(peer) as (hand, server, _):
        async with server.asking(streamed()):
            turn = await hand.turn()
            turn.send(streaming_head(peer.content_type), framed(peer.stream[:12]))
        async with asyncio.timeout(1.0):
            await turn.gone.wait()


async def test_a_client_that_hangs_up_before_a_whole_answer_frees_the_server() -> None:
    async with behind(TFSERVING) as (hand, server, _):
        async with server.asking(chat()):
            turn = await hand.turn()
        async with asyncio.timeout(1.0):
            await turn.gone.wait()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": ["\n"]}, "stop"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"messages": []}, "messages"),
        ({"max_tokens": "many"}, "max_tokens"),
    ],
    ids=str,
)
async def test_what_the_server_cannot_be_told_is_refused_before_it_is_asked(fields: Json, param: str) -> None:
    async with behind(TFSERVING) as (hand, server, _):
        answer = await server.post(CHAT, chat() | fields)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
        assert hand.waiting == 0


async def test_an_answer_without_its_text_names_the_path_that_leads_nowhere() -> None:
    async with behind(KSERVE, template={"answer": "outputs.0.data.0"}) as (hand, server, _):
        for ask in (chat(), streamed()):
            task = asyncio.create_task(server.post(CHAT, ask))
            turn = await hand.turn()
            body = sse(KSERVE.answer) if ask.get("stream") else json.dumps(KSERVE.answer).encode()
            turn.send(whole(body))
            answer = await task
            assert answer.status_code == 502
            assert '"outputs.0.data.0" leads nowhere' in answer.json()["error"]["message"]


async def test_an_error_with_status_200_is_an_error() -> None:
    async with behind(TFSERVING) as (hand, server, _):
        task = asyncio.create_task(server.post(CHAT, chat()))
        (await hand.turn()).send(whole(b'{"error": "no session"}'))
        answer = await task
        assert answer.status_code == 502
        assert "no session" in answer.json()["error"]["message"]


async def test_a_template_decides_what_is_sent_and_where_the_answer_stands() -> None:
    template = {
        "prompt": "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}",
        "path": "/v2/models/{{ model }}/infer",
        "request": {
            "inputs": [
                {"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["{{ prompt }}"]},
                {"name": "N", "datatype": "INT32", "shape": [1, 1], "data": ["{{ max_tokens or 16 }}"]},
            ],
            "id": "for {{ body.user_name }}",
            "stop": "{{ stop }}",
        },
        "answer": "outputs.0.data.0",
    }
    async with behind(KSERVE, template=template) as (hand, _server, client):
        asking = client.chat.completions.create(
            model=MODEL, messages=said("{{ 7 * 7 }}"), stop="\n", extra_body={"user_name": "Ada"}
        )
        task = asyncio.create_task(asking)
        turn = await hand.turn()
        assert path_of(turn) == "/v2/models/llm/infer"
        assert turn.json == {
            "inputs": [
                {"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["[user] {{ 7 * 7 }}\n"]},
                {"name": "N", "datatype": "INT32", "shape": [1, 1], "data": [16]},
            ],
            "id": "for Ada",
            "stop": ["\n"],
        }
        turn.send(whole(json.dumps({"outputs": [{"name": "OUT", "data": [TEXT]}]}).encode()))
        assert (await task).choices[0].message.content == TEXT


async def test_embeddings_can_be_had_as_floats_and_as_base64() -> None:
    async with behind(TFSERVING) as (hand, server, _client):
        for form in ("float", "base64"):
            task = asyncio.create_task(
                server.post("/v1/embeddings", {"model": MODEL, "input": "a", "encoding_format": form})
            )
            (await hand.turn()).send(whole(b'{"predictions": [[1.0, 0.5]]}'))
            found = (await task).json()["data"][0]["embedding"]
            assert found == ([1.0, 0.5] if form == "float" else "AACAPwAAAD8=")
