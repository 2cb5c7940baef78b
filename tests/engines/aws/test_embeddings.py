"""Embeddings by InvokeModel, for each family of models."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from engines.adapter import Exchange
from engines.aws.bedrock import BedrockTranslator
from engines.base import EngineProtocolError, Operation
from tests.engines.aws.conversation import Json, refused, request

TITAN, COHERE = "amazon.titan-embed-text-v2:0", "eu.cohere.embed-v4:0"


def embed(model: str, text: object = "hello", **fields: Any) -> Exchange:
    return BedrockTranslator().begin(request(Operation.EMBEDDINGS, model=model, input=text, **fields))


def answer(exchange: Exchange, **body: Any) -> Json:
    found: Json = json.loads(exchange.whole(json.dumps(body).encode()))
    return found


@pytest.mark.parametrize("text", ["hello", ["hello"]])
def test_titan_embeds_one_text(text: object) -> None:
    exchange = embed(TITAN, text, dimensions=256)
    assert exchange.wire.path == "/model/amazon.titan-embed-text-v2%3A0/invoke"
    assert json.loads(exchange.wire.body) == {"inputText": "hello", "dimensions": 256}
    assert answer(exchange, embedding=[0.5, -1], inputTextTokenCount=3) == {
        "object": "list",
        "model": TITAN,
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


def test_titan_embeds_no_two_texts() -> None:
    error = refused(request(Operation.EMBEDDINGS, model=TITAN, input=["a", "b"]))
    assert error.param == "input" and "one by one" in str(error)


def test_cohere_embeds_many_texts() -> None:
    exchange = embed(COHERE, ["a", "b"], input_type="search_query", dimensions=512)
    assert json.loads(exchange.wire.body) == {
        "texts": ["a", "b"],
        "input_type": "search_query",
        "embedding_types": ["float"],
        "output_dimension": 512,
    }
    found = answer(exchange, id="x", embeddings={"float": [[1], [2]]}, response_type="embeddings_by_type")
    assert [one["embedding"] for one in found["data"]] == [[1.0], [2.0]]
    assert [one["index"] for one in found["data"]] == [0, 1]
    assert json.loads(embed(COHERE).wire.body)["input_type"] == "search_document"


def test_vectors_come_as_base64_if_asked_for() -> None:
    exchange = embed(TITAN, encoding_format="base64")
    coded = answer(exchange, embedding=[0.5, -2])["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(coded)) == (0.5, -2.0)


@pytest.mark.parametrize("text", [[1, 2], [[1, 2]], [], ["a", 1]])
def test_tokens_cannot_be_embedded(text: object) -> None:
    assert refused(request(Operation.EMBEDDINGS, model=COHERE, input=text)).param == "input"


def test_a_model_that_is_not_known_to_embed_is_refused() -> None:
    error = refused(request(Operation.EMBEDDINGS, model="anthropic.claude", input="x"))
    assert error.code == "unsupported_operation" and "titan-embed" in str(error)


@pytest.mark.parametrize("model", [TITAN, COHERE])
@pytest.mark.parametrize("body", [b"", b"{}", b'{"embedding": "x", "embeddings": [1]}'])
def test_an_answer_of_another_form_is_refused(model: str, body: bytes) -> None:
    with pytest.raises(EngineProtocolError, match="embeddings"):
        embed(model).whole(body)


def test_embeddings_do_not_stream() -> None:
    with pytest.raises(EngineProtocolError, match="stream"):
        embed(TITAN).stream()


def test_a_refusal_is_that_of_bedrock() -> None:
    assert embed(TITAN).refusal(400, {b"x-amzn-errortype": b"ThrottlingException"}, b"{}")[0] == 429
