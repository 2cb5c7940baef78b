"""What was said in a call, as it may be kept: put together from a stream's pieces, and redacted. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import msgspec

from gateway.sse import DONE, event_data

Redact = Callable[[str], str]
BLANK = "[redacted]"
_LONG_DATA = 1024
_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    error: msgspec.Raw = msgspec.Raw(b"")


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class _Called(msgspec.Struct):
    """One tool call, as far as it has come."""

    index: int
    name: str = ""
    arguments: str = ""


class _Said(msgspec.Struct, omit_defaults=True):
    """One choice, as far as it has come."""

    index: int
    text: str = ""
    content: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: list[_Called] = []
    finish_reason: str = ""

    def add(self, choice: _Choice) -> None:
        self.text += choice.text or ""
        self.finish_reason = choice.finish_reason or self.finish_reason
        delta = choice.delta
        if delta is None:
            return
        self.content += delta.content or ""
        self.reasoning += delta.reasoning_content or delta.reasoning or ""
        self.refusal += delta.refusal or ""
        for piece in delta.tool_calls or ():
            self._add_call(piece)

    def _add_call(self, piece: _ToolCall) -> None:
        known = next((call for call in self.tool_calls if call.index == piece.index), None)
        if known is None:
            known = _Called(piece.index)
            self.tool_calls.append(known)
        if piece.function is not None:
            known.name += piece.function.name or ""
            known.arguments += piece.function.arguments or ""


def redactor(patterns: Iterable[str]) -> Redact:
    """Blanks out what any of the regular expressions finds."""
    compiled = [re.compile(pattern) for pattern in patterns]

    def redact(text: str) -> str:
        for pattern in compiled:
            text = pattern.sub(BLANK, text)
        return text

    return redact


def prompt_of(body: bytes, redact: Redact) -> object:
    """A request's body with its texts redacted."""
    return _cleaned(_decoded(body), redact)


def answer_of(body: bytes, redact: Redact, *, stream: bool) -> object:
    """An answer's body with its texts redacted; of a stream, what its choices said in all."""
    return _cleaned(_joined(body) if stream else _decoded(body), redact)


def _decoded(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")


def _joined(body: bytes) -> object:
    """A pattern would not find what is spread over many events."""
    choices: dict[int, _Said] = {}
    others: list[object] = []
    for event in _END_OF_EVENT.split(body):
        data = event_data(event + b"\n\n")
        if not data or data.startswith(DONE):
            continue
        try:
            chunk = _decode_chunk(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            others.append(_decoded(data))
            continue
        if bytes(chunk.error) not in (b"", b"null"):
            others.append(_decoded(data))
        for choice in chunk.choices or ():
            choices.setdefault(choice.index, _Said(choice.index)).add(choice)
    said = {"choices": [choices[index] for index in sorted(choices)], "others": others}
    return msgspec.to_builtins(said if others else {"choices": said["choices"]})


def _cleaned(value: object, redact: Redact) -> object:
    if isinstance(value, str):
        if len(value) > _LONG_DATA and value.startswith("data:"):
            return f"{value[:64].partition(',')[0]},[{len(value)} characters]"
        return redact(value)
    if isinstance(value, list):
        return [_cleaned(one, redact) for one in value]
    if isinstance(value, dict):
        return {name: _cleaned(one, redact) for name, one in value.items()}
    return value
