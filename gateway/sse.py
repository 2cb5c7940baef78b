"""Server-sent events of an OpenAI stream: bytes in, whole events out. No socket, no clock.

`EventFilter` passes bytes as they come but for two things: a partial event is held until its end (no client could
read it any earlier), and the usage event that the gateway asked for is taken out again if the client did not ask.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from gateway.record import Usage

MAX_EVENT_BYTES = 8 * 1024 * 1024
KEEPALIVE = b": keepalive\n\n"
"""What the gateway sends on a stream that is silent; clients ignore comments."""
DONE = b"[DONE]"
MAX_TOKENS = 10**12
"""An engine that tells of more is taken to have told of so many."""
_BOM = b"\xef\xbb\xbf"

_END_OF_EVENT = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_END_OF_LINE = re.compile(rb"\r\n|\n|\r")


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = 0
    cache_creation_tokens: int | None = 0


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = 0


class UsageView(msgspec.Struct):
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None

    def usage(self) -> Usage:
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            prompt_tokens=_plausible(self.prompt_tokens),
            completion_tokens=_plausible(self.completion_tokens),
            cached_tokens=_plausible(prompt.cached_tokens) if prompt else 0,
            cached_told=prompt is not None and prompt.cached_tokens is not None,
            reasoning_tokens=_plausible(completion.reasoning_tokens) if completion else 0,
            cache_write_tokens=_plausible(prompt.cache_creation_tokens) if prompt else 0,
        )


def _plausible(tokens: int | None) -> int:
    """An engine may tell anything, and limits and bills go by it."""
    return min(max(0, tokens or 0), MAX_TOKENS)


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: msgspec.Raw = msgspec.Raw(b"")
    function_call: msgspec.Raw = msgspec.Raw(b"")

    @property
    def says_something(self) -> bool:
        return bool(
            self.content
            or self.reasoning_content
            or self.reasoning
            or self.refusal
            or bytes(self.tool_calls) not in (b"", b"null", b"[]")
            or bytes(self.function_call) not in (b"", b"null")
        )


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    index: int = 0
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    object: msgspec.Raw = msgspec.Raw(b"")
    choices: list[_Choice] | None = None
    usage: UsageView | None = None
    error: msgspec.Raw = msgspec.Raw(b"")

    @property
    def fails(self) -> bool:
        """Whether this is an error: `{"error": …}`, or the flat `{"object": "error", …}` of older vLLM and SGLang."""
        return not self.choices and (bytes(self.error) not in (b"", b"null") or bytes(self.object) == b'"error"')


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


@dataclass(slots=True)
class Feed:
    """What came of one piece of a stream.

    out:     bytes for the client: whole events only.
    content: whether some event said something (token text, tool call, reasoning).
    error:   the JSON of an error event; the stream ends there, and `out` holds what came before it.
    """

    out: bytes = b""
    content: bool = False
    error: bytes | None = None


@dataclass(slots=True)
class EventFilter:
    """The state of one stream.

    strip_usage: take out an event that has usage and no choices.
    choices:     how many answers were asked for; each says why it ended.
    tokens:      events that said something, one for each choice in them: what is known without usage.
    """

    strip_usage: bool
    choices: int = 1
    held: bytes = b""
    usage: Usage | None = None
    finish_reason: str = ""
    events: int = 0
    tokens: int = 0
    done: bool = False
    _finished: set[int] = field(default_factory=set)
    _out: list[bytes] = field(default_factory=list)
    _total: Usage | None = None
    _by_choice: dict[int, Usage] = field(default_factory=dict)
    _lf: bytes | None = None
    """What becomes of an LF that comes next; None unless the last piece ended in CR: it may be half a CRLF."""

    @property
    def between_events(self) -> bool:
        """Whether the next byte begins an event."""
        return not self.held and self._lf is None

    @property
    def complete(self) -> bool:
        """Whether the engine said that it had finished."""
        return self.done or len(self._finished) >= max(1, self.choices)

    def feed(self, payload: bytes) -> Feed:
        """Take the next piece.

        Raises:
            ValueError: an event is larger than `MAX_EVENT_BYTES`.
        """
        result = Feed()
        self._out.clear()
        if self._lf is not None and payload:
            if payload.startswith(b"\n"):
                self._out.append(self._lf)
                payload = payload[1:]
            self._lf = None
        buffer = self.held + payload if self.held else payload
        position = passed = 0
        for match in _END_OF_EVENT.finditer(buffer, max(0, len(self.held) - 3)):
            if match.end() <= position:
                continue
            event = buffer[position : match.end()]
            position = match.end()
            passed = len(self._out)
            if not self._take(event, result):
                break
        self.held = buffer[position:] if position else buffer
        if len(self.held) > MAX_EVENT_BYTES:
            raise ValueError(f"the engine sent an event of over {MAX_EVENT_BYTES} bytes")
        if not self.held and buffer.endswith(b"\r"):
            self._lf = b"\n" if len(self._out) > passed else b""
        result.out = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        return result

    def _take(self, event: bytes, result: Feed) -> bool:
        """Read one event; False if the stream ends with it as a failure."""
        data = event_data(event)
        if not data:
            self._out.append(event)
            return True
        self.events += 1
        if data.startswith(DONE):
            self.done = True
            self._out.append(event)
            return True
        try:
            chunk = _decode_chunk(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Not ours to judge: an engine may send what the client knows and we do not.
            self._out.append(event)
            return True
        return self._read_chunk(chunk, event, data, result)

    def _read_chunk(self, chunk: _Chunk, event: bytes, data: bytes, result: Feed) -> bool:
        if chunk.fails:
            result.error = data
            return False
        if chunk.usage is not None:
            self._count(chunk.choices, chunk.usage.usage())
            if self.strip_usage and not chunk.choices:
                return True
        for choice in chunk.choices or ():
            if choice.finish_reason:
                self.finish_reason = choice.finish_reason
                self._finished.add(choice.index)
            if choice.text or (choice.delta is not None and choice.delta.says_something):
                result.content = True
                self.tokens += 1
        self._out.append(event)
        return True

    def _count(self, choices: list[_Choice] | None, usage: Usage) -> None:
        """Of several choices, llama.cpp counts each by itself, and vLLM all in the end, whatever it said on the way."""
        if choices:
            self._by_choice[choices[0].index] = usage
        else:
            self._total = _sum([self._total, usage] if self._total else [usage])
        self.usage = self._total or _sum(self._by_choice.values())


def _sum(parts: Iterable[Usage]) -> Usage:
    """Choices share a prompt, and each has tokens of its own."""
    parts = list(parts)
    return Usage(
        prompt_tokens=max(part.prompt_tokens for part in parts),
        completion_tokens=sum(part.completion_tokens for part in parts),
        cached_tokens=max(part.cached_tokens for part in parts),
        reasoning_tokens=sum(part.reasoning_tokens for part in parts),
        cache_write_tokens=max(part.cache_write_tokens for part in parts),
    )


def event_data(event: bytes) -> bytes:
    """The joined `data` lines of one event, as the SSE specification has it; empty for a comment."""
    if event.startswith(b"data: ") and event.count(b"\n") == 2 and b"\r" not in event:
        return event[6:-2]
    values: list[bytes] = []
    for line in _END_OF_LINE.split(event.removeprefix(_BOM)):
        name, _, value = line.partition(b":")
        if name == b"data":
            values.append(value.removeprefix(b" "))
    return b"\n".join(values)
