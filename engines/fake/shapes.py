"""Answers in vLLM's shapes: whole bodies, and the events of a stream."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol
from zlib import crc32

import msgspec

from engines.fake.answers import Choice

_json = msgspec.json.encode
_TEXT_END = b'},"logprobs":null,"finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Usage:
    """Tokens of one request. `cached_tokens` None: not told."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None

    def fields(self) -> dict[str, object]:
        details = None if self.cached_tokens is None else {"cached_tokens": self.cached_tokens}
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_details": details,
        }


class Reply(Protocol):
    """A complete answer, to be sent whole or token by token."""

    usage: Usage
    show_usage: bool

    @property
    def finish_reason(self) -> str:
        """Of the first choice."""
        ...

    @property
    def steps(self) -> int:
        """Tokens of the longest choice."""
        ...

    def body(self) -> bytes: ...

    def opening(self) -> list[bytes]:
        """Events that come with the first token."""
        ...

    def step(self, number: int) -> list[bytes]:
        """The events of one token of every choice."""
        ...

    def closing(self) -> list[bytes]:
        """Finish reasons, usage if wanted, and the end mark."""
        ...


@dataclass(slots=True)
class Head:
    """What every event of one answer begins with."""

    id: str
    created: int
    model: str


class _Generated:
    """Common to chat and completions: identity, usage and the frame of events."""

    def __init__(
        self, head: Head, choices: list[Choice], usage: Usage, *, logprobs: int | None, include_usage: bool
    ) -> None:
        self.head = head
        self.choices = choices
        self.usage = usage
        self.show_usage = True
        self.logprobs = logprobs
        self.include_usage = include_usage
        self.steps = max((choice.tokens for choice in choices), default=0)
        self.finish_reason = choices[0].finish_reason

    def _start(self, kind: str) -> bytes:
        head = self.head
        fields = {"id": head.id, "object": kind, "created": head.created, "model": head.model}
        return b"data: " + _json(fields)[:-1] + b',"choices":['

    def _whole(self, kind: str, choices: list[dict[str, object]]) -> bytes:
        head = self.head
        fields: dict[str, object] = {"id": head.id, "object": kind, "created": head.created, "model": head.model}
        fields["choices"] = choices
        if self.show_usage:
            fields["usage"] = self.usage.fields()
        return _json(fields)

    def _end(self, start: bytes) -> list[bytes]:
        if self.include_usage and self.show_usage:
            return [start + b'],"usage":' + _json(self.usage.fields()) + b"}\n\n", DONE]
        return [DONE]


class ChatReply(_Generated):
    def __init__(
        self, head: Head, choices: list[Choice], usage: Usage, *, logprobs: int | None, include_usage: bool
    ) -> None:
        super().__init__(head, choices, usage, logprobs=logprobs, include_usage=include_usage)
        self._prefix = self._start("chat.completion.chunk")
        self._text_start = {c.index: self._prefix + b'{"index":%d,"delta":{"content":' % c.index for c in choices}
        self._calls = {choice.index: _call_deltas(choice) for choice in choices if choice.calls}

    def body(self) -> bytes:
        return self._whole("chat.completion", [self._message(choice) for choice in self.choices])

    def opening(self) -> list[bytes]:
        return [self._event(c, b'{"role":"assistant","content":""}') for c in self.choices]

    def step(self, number: int) -> list[bytes]:
        if len(self.choices) == 1:
            return [self._token(self.choices[0], number)]
        return [self._token(c, number) for c in self.choices if number < c.tokens]

    def closing(self) -> list[bytes]:
        events = [
            self._event(c, b'{"content":""}', _json(c.finish_reason) + b',"stop_reason":' + _json(c.stop_reason))
            for c in self.choices
        ]
        return events + self._end(self._prefix)

    def _token(self, choice: Choice, number: int) -> bytes:
        if choice.calls:
            return self._event(choice, self._calls[choice.index][number])
        piece = choice.pieces[number]
        if self.logprobs is None:
            return self._text_start[choice.index] + _json(piece) + _TEXT_END
        logprobs = _json(_chat_logprobs([piece], self.logprobs))
        return self._event(choice, b'{"content":%b}' % _json(piece), logprobs=logprobs)

    def _event(self, choice: Choice, delta: bytes, finish: bytes = b"null", logprobs: bytes = b"null") -> bytes:
        return b'%b{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}]}\n\n' % (
            self._prefix, choice.index, delta, logprobs, finish,
        )  # fmt: skip

    def _message(self, choice: Choice) -> dict[str, object]:
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.calls
        ]
        content = None if calls else choice.text
        message = {"role": "assistant", "content": content, "refusal": None, "tool_calls": calls}
        logprobs = None if self.logprobs is None or calls else _chat_logprobs(choice.pieces, self.logprobs)
        return {
            "index": choice.index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }


class CompletionReply(_Generated):
    def __init__(
        self, head: Head, choices: list[Choice], usage: Usage, *, logprobs: int | None, include_usage: bool
    ) -> None:
        super().__init__(head, choices, usage, logprobs=logprobs, include_usage=include_usage)
        self._prefix = self._start("text_completion")

    def body(self) -> bytes:
        return self._whole("text_completion", [self._choice(c) for c in self.choices])

    def opening(self) -> list[bytes]:
        return []

    def step(self, number: int) -> list[bytes]:
        return [self._event(c, number) for c in self.choices if number < c.tokens]

    def closing(self) -> list[bytes]:
        events = [self._event(c, None) for c in self.choices]
        return events + self._end(self._prefix)

    def _event(self, choice: Choice, number: int | None) -> bytes:
        pieces = [] if number is None else [choice.pieces[number]]
        finish, stop = (choice.finish_reason, choice.stop_reason) if number is None else (None, None)
        logprobs = None if self.logprobs is None or not pieces else _text_logprobs(pieces, self.logprobs)
        return b'%b{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b,"stop_reason":%b}]}\n\n' % (
            self._prefix, choice.index, _json("".join(pieces)), _json(logprobs), _json(finish), _json(stop),
        )  # fmt: skip

    def _choice(self, choice: Choice) -> dict[str, object]:
        return {
            "index": choice.index,
            "text": choice.text,
            "logprobs": None if self.logprobs is None else _text_logprobs(choice.pieces, self.logprobs),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            "prompt_logprobs": None,
        }


class EmbeddingReply:
    """Vectors made from the text's checksum, each of length 1 in one direction: equal texts, equal vectors."""

    steps = 0
    finish_reason = "stop"

    def __init__(self, head: Head, texts: list[str], usage: Usage, *, dims: int, as_base64: bool) -> None:
        self.head = head
        self.texts = texts
        self.usage = usage
        self.show_usage = True
        self.dims = dims
        self.as_base64 = as_base64

    def body(self) -> bytes:
        data = [
            {"index": i, "object": "embedding", "embedding": self._vector(text)} for i, text in enumerate(self.texts)
        ]
        fields: dict[str, object] = {"id": self.head.id, "object": "list", "created": self.head.created}
        fields |= {"model": self.head.model, "data": data}
        return _json(fields | {"usage": self.usage.fields()} if self.show_usage else fields)

    def opening(self) -> list[bytes]:
        return []

    def step(self, number: int) -> list[bytes]:
        return []

    def closing(self) -> list[bytes]:
        return [DONE]

    def _vector(self, text: str) -> str | list[float]:
        mark = crc32(text.encode("utf-8", "surrogatepass"))
        raw = [1 + (crc32(b"%d/%d" % (mark, i)) % 1000) for i in range(self.dims)]
        norm = sum(value * value for value in raw) ** 0.5
        vector = [value / norm for value in raw]
        return base64.b64encode(struct.pack(f"<{self.dims}f", *vector)).decode() if self.as_base64 else vector


def _call_deltas(choice: Choice) -> list[bytes]:
    deltas: list[bytes] = []
    for index, call in enumerate(choice.calls):
        start = {"name": call.name, "arguments": ""}
        entries: list[dict[str, object]] = [{"index": index, "id": call.id, "type": "function", "function": start}]
        entries += [{"index": index, "function": {"arguments": piece}} for piece in call.pieces]
        deltas += [_json({"tool_calls": [entry]}) for entry in entries]
    return deltas


def _logprob(piece: str) -> float:
    return -(crc32(piece.encode("utf-8", "surrogatepass")) % 1000) / 1000


def _entry(piece: str) -> dict[str, object]:
    return {"token": piece, "logprob": _logprob(piece), "bytes": list(piece.encode("utf-8", "replace"))}


def _chat_logprobs(pieces: list[str], top: int) -> dict[str, object]:
    return {
        "content": [_entry(piece) | {"top_logprobs": [_entry(piece) for _ in range(min(top, 1))]} for piece in pieces]
    }


def _text_logprobs(pieces: list[str], top: int) -> dict[str, object]:
    offsets = list(accumulate(map(len, pieces[:-1]), initial=0))
    chances = [_logprob(piece) for piece in pieces]
    tops = [{piece: chance} for piece, chance in zip(pieces, chances, strict=True)]
    return {
        "text_offset": offsets,
        "token_logprobs": chances,
        "tokens": pieces,
        "top_logprobs": tops if top else None,
    }
