"""OpenAI's embeddings by Bedrock's InvokeModel, where each family of models has a form of its own."""

from __future__ import annotations

import base64
from array import array
from typing import Protocol

import msgspec

from engines.adapter import CannotSay
from engines.base import EngineProtocolError


class EmbeddingsBody(msgspec.Struct):
    """`input_type` is Cohere's own, under its own name."""

    model: str
    input: str | list[str | int | list[int]]
    dimensions: int | None = None
    encoding_format: str = "float"
    input_type: str = "search_document"

    @property
    def texts(self) -> list[str]:
        """Raises:
        CannotSay: there are token ids among the input.
        """
        given = [self.input] if isinstance(self.input, str) else self.input
        texts = [text for text in given if isinstance(text, str)]
        if len(texts) < len(given) or not texts:
            raise CannotSay("Bedrock embeds text; `input` must be a string or a list of strings.", param="input")
        return texts


class Family(Protocol):
    """Models that share a form."""

    def body(self, asked: EmbeddingsBody) -> bytes:
        """Raises:
        CannotSay: the models have no words for it.
        """
        ...

    def vectors(self, body: bytes) -> tuple[list[list[float]], int | None]:
        """The embeddings in an answer, and the tokens of the prompt if it counts them.

        Raises:
            msgspec.DecodeError: it is not of the models' form.
        """
        ...


class _TitanBody(msgspec.Struct, rename="camel", omit_defaults=True):
    input_text: str
    dimensions: int | None = None


class _TitanAnswer(msgspec.Struct, rename="camel"):
    embedding: list[float]
    input_text_token_count: int | None = None


class Titan:
    """Amazon Titan Text Embeddings: one text a call."""

    def body(self, asked: EmbeddingsBody) -> bytes:
        texts = asked.texts
        if len(texts) > 1:
            message = f"Titan embeds one text a call, not {len(texts)}; send them one by one."
            raise CannotSay(message, param="input")
        return msgspec.json.encode(_TitanBody(texts[0], asked.dimensions))

    def vectors(self, body: bytes) -> tuple[list[list[float]], int | None]:
        answer = msgspec.json.decode(body, type=_TitanAnswer)
        return [answer.embedding], answer.input_text_token_count


class _CohereBody(msgspec.Struct, omit_defaults=True):
    texts: list[str]
    input_type: str
    embedding_types: tuple[str, ...]
    output_dimension: int | None = None


class _CohereFloats(msgspec.Struct):
    vectors: list[list[float]] = msgspec.field(name="float")


class _CohereAnswer(msgspec.Struct):
    embeddings: _CohereFloats


class Cohere:
    """Cohere Embed: up to 96 texts a call. It counts no tokens in the body of its answer."""

    def body(self, asked: EmbeddingsBody) -> bytes:
        return msgspec.json.encode(_CohereBody(asked.texts, asked.input_type, ("float",), asked.dimensions))

    def vectors(self, body: bytes) -> tuple[list[list[float]], int | None]:
        return msgspec.json.decode(body, type=_CohereAnswer).embeddings.vectors, None


_FAMILIES: dict[str, Family] = {"titan-embed-text": Titan(), "cohere.embed": Cohere()}


def family_of(model: str) -> Family:
    """Raises:
    CannotSay: it is no model that embeds, as far as its id tells.
    """
    for part, family in _FAMILIES.items():
        if part in model:
            return family
    known = " or ".join(f"`{part}…`" for part in _FAMILIES)
    message = f"The gateway can get embeddings from Bedrock models whose id has {known}, not from {model[:200]!r}."
    raise CannotSay(message, code="unsupported_operation")


def embeddings_answer(asked: EmbeddingsBody, family: Family, body: bytes) -> bytes:
    """Raises:
    EngineProtocolError: it is no answer of the family's.
    """
    try:
        vectors, tokens = family.vectors(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineProtocolError(f"Bedrock's embeddings are not of the expected form: {error}") from None
    coded = [_coded(vector) for vector in vectors] if asked.encoding_format == "base64" else vectors
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(coded)]
    answer: dict[str, object] = {"object": "list", "model": asked.model, "data": data}
    if tokens is not None:
        answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode(answer)


def _coded(vector: list[float]) -> str:
    """32-bit floats, little-endian."""
    return base64.b64encode(array("f", vector).tobytes()).decode()
