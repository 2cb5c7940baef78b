"""What was said in a call, as it may be kept: put together from a stream's pieces, and redacted. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from gateway.sse import DONE, event_data

Redact = Callable[[str], str]
BLANK = "[redacted]"
_LONG_DATA = 1024
_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_SAID = ("content", "reasoning_content", "reasoning", "refusal")


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
    choices: dict[int, dict[str, Any]] = {}
    errors: list[object] = []
    for event in _END_OF_EVENT.split(body):
        data = event_data(event + b"\n\n")
        if not data or data.startswith(DONE):
            continue
        chunk = _decoded(data)
        if not isinstance(chunk, dict):
            continue
        if "error" in chunk:
            errors.append(chunk["error"])
        for choice in chunk.get("choices") or ():
            if isinstance(choice, dict):
                _add(choices.setdefault(choice.get("index") or 0, {}), choice)
    said: dict[str, object] = {"choices": [{"index": index, **choices[index]} for index in sorted(choices)]}
    return said | ({"errors": errors} if errors else {})


def _add(whole: dict[str, Any], choice: dict[str, Any]) -> None:
    """One more piece of a choice."""
    if isinstance(choice.get("text"), str):
        whole["text"] = whole.get("text", "") + choice["text"]
    if choice.get("finish_reason"):
        whole["finish_reason"] = choice["finish_reason"]
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return
    for name in _SAID:
        if isinstance(delta.get(name), str) and delta[name]:
            whole[name] = whole.get(name, "") + delta[name]
    for call in delta.get("tool_calls") or ():
        if isinstance(call, dict):
            _add_tool_call(whole.setdefault("tool_calls", []), call)


def _add_tool_call(calls: list[dict[str, Any]], piece: dict[str, Any]) -> None:
    index = piece.get("index") or 0
    known = next((call for call in calls if call["index"] == index), None)
    if known is None:
        known = {"index": index, "name": "", "arguments": ""}
        calls.append(known)
    function = piece.get("function")
    for name in ("name", "arguments"):
        if isinstance(function, dict) and isinstance(function.get(name), str):
            known[name] += function[name]


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
