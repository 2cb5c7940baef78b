"""llama.cpp's server, embedded or by URL: OpenAI's protocol, but tokenizing has a wire format of its own.

Callers speak vLLM's: `/tokenize` takes `prompt` or `messages` and gives `tokens`, `count` and `max_model_len`;
`/detokenize` takes `tokens` and gives `prompt`. llama.cpp ignores a body in that form and answers 200 with nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from engines.base import EngineProtocolError, EngineRequest, EngineResponse, Operation, Timeouts
from engines.connection import Exchange
from engines.http import HttpEngine
from engines.made import MadeResponse

_MAX_BYTES = 64 * 1024 * 1024


class _TokenizeCall(msgspec.Struct):
    prompt: str | None = None
    messages: list[msgspec.Raw] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class _DetokenizeCall(msgspec.Struct):
    tokens: list[int]


class _Prompt(msgspec.Struct):
    prompt: str


class _Content(msgspec.Struct):
    content: str


class _Piece(msgspec.Struct):
    id: int
    piece: str | list[int]

    @property
    def text(self) -> str:
        """A piece that is no valid UTF-8 by itself comes as its bytes."""
        return self.piece if isinstance(self.piece, str) else bytes(self.piece).decode(errors="replace")


class _Pieces(msgspec.Struct):
    tokens: list[_Piece]


class _Meta(msgspec.Struct):
    n_ctx: int = 0


class _Model(msgspec.Struct):
    meta: _Meta | None = None


class _Models(msgspec.Struct):
    data: list[_Model] = []


class LlamaCppEngine(HttpEngine):
    """Implements `Engine`."""

    _max_model_len = 0

    async def send(self, request: EngineRequest, timeouts: Timeouts) -> EngineResponse:
        if request.operation is Operation.TOKENIZE:
            return await self._translated(request, timeouts, self._tokenize)
        if request.operation is Operation.DETOKENIZE:
            return await self._translated(request, timeouts, self._detokenize)
        return await super().send(request, timeouts)

    async def _translated(self, request: EngineRequest, timeouts: Timeouts, translate: _Translate) -> EngineResponse:
        try:
            answer = await translate(request, timeouts)
        except msgspec.ValidationError as error:
            return MadeResponse(400, _error_body(f"Wrong type: {error}."))
        return answer if isinstance(answer, Exchange) else MadeResponse(200, msgspec.json.encode(answer))

    async def _tokenize(self, request: EngineRequest, timeouts: Timeouts) -> object:
        call = msgspec.json.decode(request.body, type=_TokenizeCall)
        text, special = call.prompt, True
        if text is None:
            if call.messages is None:
                raise msgspec.ValidationError("`prompt` or `messages` is required")
            body = msgspec.json.encode({"messages": call.messages})
            response = await self._ask("/apply-template", body, request, timeouts)
            if response.status != 200:
                return response
            text, special = (await _read(response, _Prompt)).prompt, False
        if call.add_special_tokens is not None:
            special = call.add_special_tokens
        question = {"content": text, "add_special": special, "parse_special": True, "with_pieces": True}
        response = await self._ask("/tokenize", msgspec.json.encode(question), request, timeouts)
        if response.status != 200:
            return response
        pieces = (await _read(response, _Pieces)).tokens
        return {
            "count": len(pieces),
            "max_model_len": await self._context(request, timeouts),
            "tokens": [p.id for p in pieces],
            "token_strs": [p.text for p in pieces] if call.return_token_strs else None,
        }

    async def _detokenize(self, request: EngineRequest, timeouts: Timeouts) -> object:
        call = msgspec.json.decode(request.body, type=_DetokenizeCall)
        response = await self._ask("/detokenize", msgspec.json.encode(call), request, timeouts)
        if response.status != 200:
            return response
        return {"prompt": (await _read(response, _Content)).content}

    async def _context(self, request: EngineRequest, timeouts: Timeouts) -> int:
        """The context length in tokens, asked once; 0 if the server does not say."""
        if not self._max_model_len:
            response = await self._send(self._head("GET", "/v1/models") + b"\r\n", timeouts)
            models = (await _read(response, _Models)).data
            self._max_model_len = models[0].meta.n_ctx if models and models[0].meta else 0
        return self._max_model_len

    async def _ask(self, path: str, body: bytes, request: EngineRequest, timeouts: Timeouts) -> Exchange:
        return await self._post(self._head("POST", path), body, timeouts, request.headers)


_T = TypeVar("_T")
_Translate = Callable[[EngineRequest, Timeouts], Awaitable[object]]
"""Gives the answer in the caller's format, or the engine's own refusal."""


async def _read(response: Exchange, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(await response.read(_MAX_BYTES), type=kind)
    except msgspec.DecodeError as error:
        raise EngineProtocolError(f"llama.cpp's answer is not of the expected form: {error}") from error


def _error_body(message: str) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": "invalid_request_error", "code": None}})
