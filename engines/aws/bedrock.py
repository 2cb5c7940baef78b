"""Amazon Bedrock: chat by Converse and ConverseStream, embeddings by InvokeModel."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from engines.adapter import CannotSay, Exchange, StreamReader, Wire
from engines.aws.chat import ChatBody, read_body
from engines.aws.converse_answer import ConverseReader, whole_answer
from engines.aws.converse_request import converse_body
from engines.aws.embeddings import EmbeddingsBody, embeddings_answer, family_of
from engines.aws.errors import refusal
from engines.base import EngineProtocolError, EngineRequest, Operation

SERVICE = "bedrock"
"""What requests are signed for."""


class BedrockTranslator:
    """Implements `Translator`. The request's `model` is a model id, an inference profile or an ARN."""

    def begin(self, request: EngineRequest) -> Exchange:
        if request.operation is Operation.CHAT:
            return _Chat(read_body(request.body, ChatBody), stream=request.stream)
        if request.operation is Operation.EMBEDDINGS:
            return _Embeddings(read_body(request.body, EmbeddingsBody))
        message = f"The engine behind this model, Amazon Bedrock, does not offer /{request.operation}."
        raise CannotSay(message, code="unsupported_operation")


class _Refusing:
    """What both kinds of call share."""

    def refusal(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, bytes]:
        return refusal(status, headers, body)


class _Chat(_Refusing):
    """Implements `Exchange`."""

    def __init__(self, chat: ChatBody, *, stream: bool) -> None:
        self.wire = Wire(_path(chat.model, "converse-stream" if stream else "converse"), converse_body(chat))
        self._model = chat.model
        self._wants_usage = chat.wants_usage

    def whole(self, body: bytes) -> bytes:
        return whole_answer(body, self._model)

    def stream(self) -> StreamReader:
        return ConverseReader(self._model, wants_usage=self._wants_usage)


class _Embeddings(_Refusing):
    """Implements `Exchange`."""

    def __init__(self, asked: EmbeddingsBody) -> None:
        self._asked = asked
        self._family = family_of(asked.model)
        self.wire = Wire(_path(asked.model, "invoke"), self._family.body(asked))

    def whole(self, body: bytes) -> bytes:
        return embeddings_answer(self._asked, self._family, body)

    def stream(self) -> StreamReader:
        raise EngineProtocolError("embeddings do not stream")


def _path(model: str, action: str) -> str:
    return f"/model/{quote(model, safe='')}/{action}"
