"""The calls that labels need, and what their answers say."""

from __future__ import annotations

from typing import Literal

import msgspec

from cache.judging import VERDICT_TOKENS, Prompt
from engines.base import Operation
from gateway.wire import Call


def whole(call: Call) -> Call:
    """The same call, for an answer in one piece."""
    fields = {name: value for name, value in call.fields.items() if name not in ("stream", "stream_options")}
    body = msgspec.json.encode(fields)
    return Call(call.operation, call.model, False, False, body, call.choices, call.output_cap)


def question(asked: Prompt, deployment: str) -> Call:
    """`output_cap`: engines know the limit of an answer by different words."""
    messages = [{"role": "system", "content": asked.system}, {"role": "user", "content": asked.user}]
    body = msgspec.json.encode({"model": deployment, "messages": messages, "temperature": 0})
    return Call(Operation.CHAT, deployment, False, False, body, output_cap=VERDICT_TOKENS)


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message = msgspec.field(default_factory=_Message)


class _Said(msgspec.Struct):
    choices: list[_Choice] = []


_decode_said = msgspec.json.Decoder(_Said).decode


def said(body: bytes) -> str:
    """The words of an answer, whatever ended it."""
    try:
        choices = _decode_said(body).choices
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return choices[0].message.content or "" if choices else ""


def kind_of(operation: Operation) -> Literal["chat", "completions"]:
    return "chat" if operation is Operation.CHAT else "completions"
