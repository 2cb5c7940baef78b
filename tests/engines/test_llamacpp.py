"""Tokenizing at llama.cpp in vLLM's wire format. The stand-in answers with what llama.cpp was recorded to say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engines.base import EngineProtocolError, EngineRequest, Operation, Timeouts
from engines.http import Endpoint
from engines.llamacpp import LlamaCppEngine

PIECES = {
    "tokens": [{"id": 19556, "piece": "Hello"}, {"id": 905, "piece": " world"}, {"id": 15107, "piece": [0xF0, 0x9F]}]
}
ANSWERS: dict[str, tuple[int, Any]] = {
    "POST /tokenize": (200, PIECES),
    "POST /detokenize": (200, {"content": "Hello world"}),
    "POST /apply-template": (200, {"prompt": "<|im_start|>user\nhi<|im_end|>\n"}),
    "GET /v1/models": (200, {"object": "list", "data": [{"id": "m", "meta": {"n_ctx": 8192}}]}),
}
Asked = list[tuple[str, Any]]


@asynccontextmanager
async def llamacpp(**changed: tuple[int, Any]) -> AsyncIterator[tuple[LlamaCppEngine, Asked]]:
    answers = ANSWERS | changed
    asked: Asked = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            length = 0
            while (line := await reader.readline()).strip():
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            target = b" ".join(head.split()[:2]).decode()
            asked.append((target, json.loads(await reader.readexactly(length) or b"null")))
            status, answer = answers[target]
            body = json.dumps(answer).encode()
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = LlamaCppEngine(Endpoint("l-0", f"http://127.0.0.1:{port}"))
    try:
        yield engine, asked
    finally:
        await engine.aclose()
        server.close()
        await server.wait_closed()


async def ask(engine: LlamaCppEngine, operation: Operation, **body: Any) -> tuple[int, Any]:
    response = await engine.send(EngineRequest(operation, json.dumps(body).encode()), Timeouts())
    return response.status, json.loads(await response.read(1 << 20))


async def test_a_prompt_is_tokenized_with_special_tokens() -> None:
    async with llamacpp() as (engine, asked):
        status, answer = await ask(engine, Operation.TOKENIZE, model="m", prompt="Hello world")
        assert status == 200
        assert answer == {"count": 3, "max_model_len": 8192, "tokens": [19556, 905, 15107], "token_strs": None}
        assert asked[0] == (
            "POST /tokenize",
            {"content": "Hello world", "add_special": True, "parse_special": True, "with_pieces": True},
        )


async def test_pieces_that_are_no_utf8_come_as_replacement_characters() -> None:
    async with llamacpp() as (engine, _):
        _, answer = await ask(engine, Operation.TOKENIZE, model="m", prompt="x", return_token_strs=True)
        assert answer["token_strs"] == ["Hello", " world", "\ufffd"]


async def test_a_conversation_goes_through_the_chat_template_first() -> None:
    async with llamacpp() as (engine, asked):
        messages = [{"role": "user", "content": "hi"}]
        await ask(engine, Operation.TOKENIZE, model="m", messages=messages)
        await ask(engine, Operation.TOKENIZE, model="m", messages=messages, add_special_tokens=True)
        assert asked[0] == ("POST /apply-template", {"messages": messages})
        assert asked[1][1]["content"] == "<|im_start|>user\nhi<|im_end|>\n"
        assert asked[1][1]["add_special"] is False
        assert asked[-1][1]["add_special"] is True
        assert [target for target, _ in asked].count("GET /v1/models") == 1


async def test_tokens_become_text() -> None:
    async with llamacpp() as (engine, _):
        assert await ask(engine, Operation.DETOKENIZE, model="m", tokens=[19556, 905]) == (
            200,
            {"prompt": "Hello world"},
        )


@pytest.mark.parametrize(
    ("operation", "body", "said"),
    [
        (Operation.TOKENIZE, {}, "`prompt` or `messages` is required"),
        (Operation.TOKENIZE, {"prompt": 1}, "$.prompt"),
        (Operation.DETOKENIZE, {"tokens": "x"}, "$.tokens"),
        (Operation.DETOKENIZE, {}, "tokens"),
    ],
)
async def test_a_body_of_the_wrong_form_is_a_400(operation: Operation, body: dict[str, Any], said: str) -> None:
    async with llamacpp() as (engine, asked):
        status, answer = await ask(engine, operation, model="m", **body)
        assert status == 400
        assert said in answer["error"]["message"]
        assert asked == []


@pytest.mark.parametrize(
    ("failing", "operation", "body"),
    [
        ("POST /apply-template", Operation.TOKENIZE, {"messages": []}),
        ("POST /tokenize", Operation.TOKENIZE, {"prompt": "x"}),
        ("POST /detokenize", Operation.DETOKENIZE, {"tokens": [1]}),
    ],
)
async def test_what_llamacpp_refuses_is_passed_on(failing: str, operation: Operation, body: dict[str, Any]) -> None:
    refusal = {"error": {"code": 500, "message": "no", "type": "server_error"}}
    async with llamacpp(**{failing: (500, refusal)}) as (engine, _):
        assert await ask(engine, operation, model="m", **body) == (500, refusal)


async def test_an_answer_of_another_form_is_a_broken_protocol() -> None:
    async with llamacpp(**{"POST /detokenize": (200, {"text": "x"})}) as (engine, _):
        with pytest.raises(EngineProtocolError, match="not of the expected form"):
            await ask(engine, Operation.DETOKENIZE, model="m", tokens=[1])


async def test_a_server_that_does_not_say_its_context_gives_zero() -> None:
    async with llamacpp(**{"GET /v1/models": (200, {"data": []})}) as (engine, _):
        _, answer = await ask(engine, Operation.TOKENIZE, model="m", prompt="x")
        assert answer["max_model_len"] == 0


async def test_chat_passes_as_it_is() -> None:
    async with llamacpp(**{"POST /v1/chat/completions": (200, {"choices": []})}) as (engine, asked):
        await ask(engine, Operation.CHAT, model="m", messages=[])
        assert asked == [("POST /v1/chat/completions", {"model": "m", "messages": []})]
