"""Requests for the tests of prompts."""

from __future__ import annotations

import json

from engines.base import Operation
from gateway.wire import Call


def call(body: dict[str, object] | bytes, operation: Operation = Operation.CHAT) -> Call:
    raw = body if isinstance(body, bytes) else json.dumps({"model": "m", **body}).encode()
    return Call(operation, "m", False, False, raw)


def chat(*contents: str, **fields: object) -> Call:
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": content} for at, content in enumerate(contents)]
    return call({"messages": messages, **fields})
