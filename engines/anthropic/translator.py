"""Implements `Translator` for Anthropic: what is sent, and what its refusals mean."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from engines.adapter import CannotSay, Wire, error_body
from engines.anthropic.answer import STATUS, Failure, MessageReader, completion
from engines.anthropic.ask import Asked, ask
from engines.base import EngineRequest, Operation

VERSION = "2023-06-01"
"""`anthropic-version` that this speaks."""
_TOO_LONG = re.compile(r"prompt is too long|exceed context limit|context window", re.IGNORECASE)


_NO_CREDIT = re.compile(r"credit balance is too low", re.IGNORECASE)
"""Comes as an invalid request, and no caller can put it right."""


class _Refusal(msgspec.Struct):
    error: Failure


class AnthropicTranslator:
    """max_tokens: for requests that set none; the API requires one."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens

    def begin(self, request: EngineRequest) -> AnthropicExchange:
        if request.operation is not Operation.CHAT:
            message = f"Anthropic's models offer chat/completions, not {request.operation}."
            raise CannotSay(message, code="unsupported_operation")
        return AnthropicExchange(ask(request.body, self._max_tokens))


class AnthropicExchange:
    """Implements `Exchange`."""

    def __init__(self, asked: Asked) -> None:
        self.wire = Wire("/v1/messages", asked.body)
        self._asked = asked

    def whole(self, body: bytes) -> bytes:
        return completion(body)

    def stream(self) -> MessageReader:
        return MessageReader(wants_usage=self._asked.wants_usage)

    def refusal(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, bytes]:
        """The type says more than the status: proxies in between have statuses of their own."""
        try:
            failure = msgspec.json.decode(body, type=_Refusal).error
        except (msgspec.DecodeError, UnicodeDecodeError):
            return (503 if status == 529 else status), error_body("", kind="api_error")
        code, status = failure.type, STATUS.get(failure.type, status)
        if status == 400 and _TOO_LONG.search(failure.message):
            code = "context_length_exceeded"
        elif status == 400 and _NO_CREDIT.search(failure.message):
            status = 402
        return status, error_body(failure.message, code=code, kind=failure.type)
