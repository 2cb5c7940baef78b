"""The few fields of an OpenAI body that the gateway reads; everything else passes through untouched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import msgspec

from engines.base import Operation
from gateway.errors import InvalidRequest
from gateway.http import Request

if TYPE_CHECKING:
    from gateway.prompts.reading import Reading

_AT_FIELD = re.compile(r"\$\.([A-Za-z_]+)")
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_STREAMED = (Operation.CHAT, Operation.COMPLETIONS)
MAX_TOKENS = "max_tokens"


class LimitWords(NamedTuple):
    """How engines take a limit to an answer.

    chat:             the field by which they know that of a chat.
    usual_completion: tokens after which they end a completion by themselves if nothing is said; None: they do not.
    """

    chat: str = MAX_TOKENS
    usual_completion: int | None = None


USUAL_WORDS = LimitWords()


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct):
    model: str = ""
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: msgspec.Raw = msgspec.Raw(b"")


class _Shape(msgspec.Struct):
    messages: msgspec.Raw = msgspec.Raw(b"")
    input: msgspec.Raw = msgspec.Raw(b"")


_decode_shape = msgspec.json.Decoder(_Shape).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class PlainMessage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: str
    content: str


_Tokens = Annotated[int, msgspec.Meta(ge=0, le=10**12)] | None
_NONE = msgspec.Raw(b"")


class PlainChat(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A chat of nothing but texts, with no field that OpenAI does not have: most are. One look tells all of it."""

    messages: list[PlainMessage]
    model: str
    max_tokens: _Tokens = None
    max_completion_tokens: _Tokens = None
    n: Annotated[int, msgspec.Meta(ge=1, le=999)] | None = None
    tools: msgspec.Raw = _NONE
    frequency_penalty: msgspec.Raw = _NONE
    logit_bias: msgspec.Raw = _NONE
    logprobs: msgspec.Raw = _NONE
    metadata: msgspec.Raw = _NONE
    parallel_tool_calls: msgspec.Raw = _NONE
    presence_penalty: msgspec.Raw = _NONE
    prompt_cache_key: msgspec.Raw = _NONE
    reasoning_effort: msgspec.Raw = _NONE
    response_format: msgspec.Raw = _NONE
    safety_identifier: msgspec.Raw = _NONE
    seed: msgspec.Raw = _NONE
    service_tier: msgspec.Raw = _NONE
    stop: msgspec.Raw = _NONE
    store: msgspec.Raw = _NONE
    stream: msgspec.Raw = _NONE
    stream_options: msgspec.Raw = _NONE
    temperature: msgspec.Raw = _NONE
    tool_choice: msgspec.Raw = _NONE
    top_logprobs: msgspec.Raw = _NONE
    top_p: msgspec.Raw = _NONE
    user: msgspec.Raw = _NONE


_decode_plain = msgspec.json.Decoder(PlainChat).decode


class Call(msgspec.Struct):
    """What a caller asks.

    model:       the deployment name as the caller wrote it.
    wants_usage: the caller asked for usage in the stream.
    choices:     how many answers to one prompt; the engine judges whether it may be that many.
    output_cap:  tokens that the engine is told to end an answer at, as the caller said nothing of that; None: nothing
                 is said.
    reading:     what its prompt was read as, so that nobody reads it twice.
    """

    operation: Operation
    model: str
    stream: bool
    wants_usage: bool
    body: bytes
    choices: int = 1
    output_cap: int | None = None
    reading: Reading | None = None
    _fields: dict[str, msgspec.Raw] | None = None
    _plain: PlainChat | Literal[False] | None = None
    """False: it is not one. None: nobody has asked."""

    @property
    def fields(self) -> Mapping[str, msgspec.Raw]:
        """Of the body, the last of those that repeat. Decoded once.

        Raises:
            msgspec.DecodeError, UnicodeDecodeError, RecursionError: a key is no text, or a value no JSON.
        """
        fields = self._fields
        if fields is None:
            fields = self._fields = _decode_fields(self.body)
        return fields

    @property
    def plain(self) -> PlainChat | None:
        """None: there is more to it. Decoded once."""
        plain = self._plain
        if plain is None:
            try:
                plain = _decode_plain(self.body) if self.operation is Operation.CHAT else False
            except _MALFORMED:
                plain = False
            self._plain = plain
        return plain or None

    @property
    def adds_usage(self) -> bool:
        """Whether the gateway asks the engine for usage that the caller did not ask for (A06)."""
        return self.stream and not self.wants_usage


def read_call(operation: Operation, request: Request) -> Call:
    """The call in a request.

    Raises:
        InvalidRequest: the body is no JSON object, or a field that the gateway reads has the wrong type.
    """
    coding = request.headers.get(b"content-encoding", b"identity").lower()
    if coding != b"identity":
        raise InvalidRequest(
            f"Content-encoding {coding[:100].decode('latin-1')!r} is not supported; send the body uncompressed.",
            code="unsupported_content_encoding",
        )
    try:
        body = _decode_body(request.body)
    except msgspec.ValidationError as error:
        raise _wrong_type(error) from None
    except _MALFORMED as error:
        raise _no_json(error) from None
    if not body.model:
        message = "The body names no model: set `model` to one of those that GET /v1/models lists."
        raise InvalidRequest(message, code="missing_required_parameter", param="model")
    stream = bool(body.stream) and operation in _STREAMED
    options = body.stream_options
    wants_usage = options is not None and bool(options.include_usage)
    count = bytes(body.n)
    choices = int(count) if count.isdigit() and len(count) < 4 else 1
    return Call(operation, body.model, stream, wants_usage, request.body, choices)


def operation_of(body: bytes) -> Operation:
    """What a body asks for, by its fields. One that cannot be read is taken for a chat."""
    try:
        shape = _decode_shape(body)
    except _MALFORMED:
        return Operation.CHAT
    if bytes(shape.messages):
        return Operation.CHAT
    return Operation.EMBEDDINGS if bytes(shape.input) else Operation.COMPLETIONS


def body_for(call: Call, engine_model: str, words: LimitWords = USUAL_WORDS) -> bytes:
    """The body as the engine is to see it: its own model name, usage asked for, the answer limited if the caller's may
    not be as long as it likes. All other bytes of values stay.

    words: by which it knows of limits.

    The engine never sees a second model name: of a repeated key the last value stays, as `read_call` reads it, and keys
    that are `model` but for case, which servers written in Go take for it, are left out.

    Raises:
        InvalidRequest: a key is no text.
    """
    one_model = _surely_one_model(call.body)
    if one_model and call.model == engine_model and not call.adds_usage and call.output_cap is None:
        return call.body
    try:
        fields = dict(call.fields)
    except _MALFORMED as error:
        raise _no_json(error) from None
    if not one_model:
        fields = {name: value for name, value in fields.items() if name == "model" or name.lower() != "model"}
    fields["model"] = msgspec.Raw(msgspec.json.encode(engine_model))
    if call.adds_usage:
        given = fields.get("stream_options")
        options = _fields(given) if given is not None and bytes(given) != b"null" else {}
        options["include_usage"] = msgspec.Raw(b"true")
        fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
    if call.output_cap is not None:
        _limit(fields, call, call.output_cap, words)
    return msgspec.json.encode(fields)


def _limit(fields: dict[str, msgspec.Raw], call: Call, cap: int, words: LimitWords) -> None:
    """No completion becomes longer by its cap than it would be without."""
    if call.operation is Operation.CHAT:
        fields[words.chat] = msgspec.Raw(b"%d" % cap)
    elif words.usual_completion is None or words.usual_completion > cap:
        fields[MAX_TOKENS] = msgspec.Raw(b"%d" % cap)


def _surely_one_model(body: bytes) -> bool:
    """Whether no key but one can be read as `model`; False does not mean that one can."""
    escaped = body.find(b"\\") >= 0 and b"\\u" in body  # one byte is found ten times as fast as two
    return not escaped and body.lower().count(b'"model"') == 1


def _fields(raw: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    try:
        return _decode_fields(raw)
    except _MALFORMED as error:
        raise _no_json(error) from None


def _no_json(error: Exception) -> InvalidRequest:
    return InvalidRequest(f"The body could not be read as JSON: {error}.", code="invalid_json")


def _wrong_type(error: msgspec.ValidationError) -> InvalidRequest:
    match = _AT_FIELD.search(str(error))
    if match is None:
        return InvalidRequest("The body must be a JSON object.", code="invalid_json")
    return InvalidRequest(f"Wrong type: {error}.", code="invalid_type", param=match[1])
