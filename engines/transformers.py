"""`transformers serve`: OpenAI's protocol, but a part of the fields, and a body with any other is refused with 422.

Fields that change nothing in the answer are left out, and those that it would silently ignore although they change the
answer are refused, so that nobody takes what was not asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from engines.adapter import CannotSay, error_body
from engines.base import EngineRequest, EngineResponse, Operation, Timeouts
from engines.http import Endpoint, HttpEngine
from engines.made import MadeResponse
from engines.outbox import Outbox

_NO_MATTER = ("cache_salt", "priority", "prompt_cache_key", "prompt_cache_retention", "request_id", "safety_identifier")
_OFF: Mapping[str, tuple[bytes, ...]] = {
    "n": (b"1",),
    "best_of": (b"1",),
    "echo": (b"false",),
    "logprobs": (b"false",),
    "tool_choice": (b'"auto"', b'"none"'),
}
"""Fields that it ignores, and the values at which ignoring them is right, besides null."""
_GENERATES = frozenset({Operation.CHAT, Operation.COMPLETIONS})

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Format(msgspec.Struct):
    type: str = ""


class TransformersEngine(HttpEngine):
    """Implements `Engine`. `model`: the one that the server was started with; it refuses every other name."""

    def __init__(self, endpoint: Endpoint, *, model: str | None = None, outbox: Outbox | None = None) -> None:
        super().__init__(endpoint, outbox=outbox)
        self._model = model

    async def send(self, request: EngineRequest, timeouts: Timeouts) -> EngineResponse:
        if request.operation not in _GENERATES:
            return await super().send(request, timeouts)
        try:
            body = spoken(request.body, self._model)
        except CannotSay as error:
            return MadeResponse(400, error_body(str(error), code=error.code, param=error.param))
        return await super().send(msgspec.structs.replace(request, body=body), timeouts)


def spoken(body: bytes, model: str | None) -> bytes:
    """`body` in the fields that `transformers serve` takes.

    Raises:
        CannotSay: a field asks for what it would ignore.
    """
    fields = _decode(body)
    for name in _NO_MATTER:
        fields.pop(name, None)
    for name, allowed in _OFF.items():
        value = bytes(fields.get(name, b"null"))
        if value != b"null" and value not in allowed:
            raise CannotSay(
                f"`transformers serve` ignores `{name}`, so that {value.decode()[:100]} is refused.", param=name
            )
    _check_format(fields.get("response_format"))
    if bytes(fields.get("tool_choice", b"")) == b'"none"':
        fields.pop("tools", None)
    limit = fields.pop("max_completion_tokens", None)
    if limit is not None and bytes(limit) != b"null":
        fields["max_tokens"] = limit
    if model is not None:
        fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


def _check_format(raw: msgspec.Raw | None) -> None:
    if raw is None or bytes(raw) == b"null":
        return
    try:
        kind = msgspec.json.decode(raw, type=_Format).type
    except msgspec.ValidationError:
        kind = bytes(raw).decode()[:100]
    if kind != "text":
        message = f"`transformers serve` ignores `response_format`, so that {kind!r} is refused."
        raise CannotSay(message, param="response_format")
