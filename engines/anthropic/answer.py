"""Answers of the Messages API as OpenAI's chat completions: whole ones and streams."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Raw, UnsetType

from engines.adapter import DONE, event, now_s
from engines.base import EngineDied, EngineProtocolError
from engines.sse import EventSplitter

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "overloaded_error": 503,
    "timeout_error": 504,
}
"""By the type of an error: the status that the gateway reads."""


# What the API sends


class _Thinking(msgspec.Struct):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens_details: _Thinking | None = None


class _Block(msgspec.Struct):
    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: Raw = Raw(b"{}")


class _Message(msgspec.Struct):
    id: str = ""
    model: str = ""
    content: list[_Block] = []
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Delta(msgspec.Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class Failure(msgspec.Struct):
    type: str = "api_error"
    message: str = ""


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Failure | None = None


class _Whole(_Message):
    type: str = ""
    error: Failure | None = None


# What OpenAI's clients read


class _CalledFunction(msgspec.Struct):
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class _ToolCall(msgspec.Struct):
    index: int | UnsetType = UNSET
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: _CalledFunction | UnsetType = UNSET


class _Said(msgspec.Struct):
    role: str | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    refusal: UnsetType | None = UNSET
    tool_calls: list[_ToolCall] | UnsetType = UNSET


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Said | UnsetType = UNSET
    delta: _Said | UnsetType = UNSET
    logprobs: None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int
    cache_creation_tokens: int


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int


class _Tokens(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _PromptDetails
    completion_tokens_details: _CompletionDetails


class _Answer(msgspec.Struct):
    id: str
    object: str
    created: int
    model: str
    choices: list[_Choice]
    usage: _Tokens | UnsetType = UNSET


class _Error(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | int | None


class _Failed(msgspec.Struct):
    error: _Error


_decode_whole = msgspec.json.Decoder(_Whole).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError)


def completion(body: bytes) -> bytes:
    """A whole message as a chat completion.

    Raises:
        EngineProtocolError: it is none.
    """
    try:
        message = _decode_whole(body)
    except _MALFORMED as error:
        raise EngineProtocolError(f"the engine's answer is no message: {error}") from None
    if message.error is not None:
        return msgspec.json.encode(failed(message.error))
    if message.type != "message":
        raise EngineProtocolError(f"the engine's answer is no message but a {message.type!r}")
    calls = [
        _ToolCall(UNSET, block.id, "function", _CalledFunction(block.name, bytes(block.input).decode()))
        for block in message.content
        if block.type == "tool_use"
    ]
    text = "".join(block.text for block in message.content if block.type == "text")
    thoughts = "".join(block.thinking for block in message.content if block.type == "thinking")
    said = _Said("assistant", text or (None if calls else ""), thoughts or UNSET, None, calls or UNSET)
    choice = _Choice(message=said, finish_reason=_finish(message.stop_reason))
    usage = _tokens(message.usage or _Usage())
    return msgspec.json.encode(_Answer(message.id, "chat.completion", now_s(), message.model, [choice], usage))


def failed(failure: Failure) -> _Failed:
    """An error where the status line has passed: programs read the status from `code`."""
    return _Failed(_Error(failure.message, failure.type, None, STATUS.get(failure.type, 500)))


class MessageReader:
    """Implements `StreamReader`."""

    def __init__(self, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._events = EventSplitter()
        self._usage = _Usage()
        self._message = _Message()
        self._created = now_s()
        self._finish: str | None = None
        self._calls: dict[int, int] = {}
        """By the index of a content block that calls a tool: which call it is."""
        self._silent: set[int] = set()
        """Blocks whose tool call has not said its arguments."""
        self._over = False
        self._opening = b""
        """The first event, held back until there is a second: an error in its place leaves another replica a chance."""

    def feed(self, payload: bytes) -> bytes:
        out = b""
        for data in self._events.feed(payload):
            if self._over:
                break
            out += self._take(_event(data))
        return out

    def finish(self) -> bytes:
        if not self._over:
            raise EngineDied("the engine ended its stream before the message was complete")
        return b""

    def _take(self, event_: _Event) -> bytes:
        """What one event says. Kinds that are not known here are to be passed over, says the API's documentation."""
        kind = event_.type
        if kind == "content_block_delta" and event_.delta is not None:
            return self._on_delta(event_.index, event_.delta)
        if kind == "content_block_start" and event_.content_block is not None:
            return self._on_start(event_.index, event_.content_block)
        if kind == "content_block_stop":
            return self._on_stop(event_.index)
        if kind == "message_start" and event_.message is not None:
            self._message = event_.message
            self._count(event_.message.usage)
            self._opening = self._chunk(_Said(role="assistant", content=""))
        if kind == "message_delta":
            self._count(event_.usage)
            if event_.delta is not None and event_.delta.stop_reason is not None:
                self._finish = event_.delta.stop_reason
        elif kind == "message_stop":
            return self._on_end()
        elif kind == "error":
            self._over = True
            return event(failed(event_.error or Failure()))
        return b""

    def _on_start(self, index: int, block: _Block) -> bytes:
        if block.type == "tool_use":
            number = self._calls[index] = len(self._calls)
            self._silent.add(index)
            return self._chunk(
                _Said(tool_calls=[_ToolCall(number, block.id, "function", _CalledFunction(block.name, ""))])
            )
        return self._said(block.text, block.thinking)

    def _on_delta(self, index: int, delta: _Delta) -> bytes:
        if delta.type == "input_json_delta":
            if index not in self._calls or not delta.partial_json:
                return b""
            self._silent.discard(index)
            return self._arguments(index, delta.partial_json)
        return self._said(delta.text, delta.thinking)

    def _on_stop(self, index: int) -> bytes:
        """A call without arguments says nothing at all, and OpenAI's clients read arguments as JSON."""
        if index not in self._silent:
            return b""
        self._silent.discard(index)
        return self._arguments(index, "{}")

    def _on_end(self) -> bytes:
        self._over = True
        out = self._event([_Choice(delta=_Said(), finish_reason=_finish(self._finish))])
        if self._wants_usage:
            out += self._event([], _tokens(self._usage))
        return out + DONE

    def _said(self, text: str, thinking: str) -> bytes:
        if not text and not thinking:
            return b""
        return self._chunk(_Said(content=text or UNSET, reasoning_content=thinking or UNSET))

    def _arguments(self, index: int, piece: str) -> bytes:
        return self._chunk(_Said(tool_calls=[_ToolCall(self._calls[index], function=_CalledFunction(arguments=piece))]))

    def _chunk(self, said: _Said) -> bytes:
        return self._event([_Choice(delta=said)])

    def _event(self, choices: list[_Choice], usage: _Tokens | UnsetType = UNSET) -> bytes:
        message = self._message
        opening, self._opening = self._opening, b""
        return opening + event(
            _Answer(message.id, "chat.completion.chunk", self._created, message.model, choices, usage)
        )

    def _count(self, usage: _Usage | None) -> None:
        """Counts are totals: the latest stands, and what is not said again stays."""
        for name in _Usage.__struct_fields__ if usage is not None else ():
            value = getattr(usage, name)
            if value is not None:
                setattr(self._usage, name, value)


def _event(data: bytes) -> _Event:
    try:
        return _decode_event(data)
    except _MALFORMED as error:
        reason = str(error)
    # Outside: an error that is raised while another is handled keeps it, its frames, and through them itself.
    raise EngineProtocolError(f"the engine sent an event that cannot be read: {reason}")


def _finish(stop_reason: str | None) -> str:
    return _FINISH.get(stop_reason or "", "stop")


def _tokens(usage: _Usage) -> _Tokens:
    """Anthropic counts apart what came from the cache and what went into it; OpenAI's prompt tokens are all of it."""
    read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    prompt, said = (usage.input_tokens or 0) + read + written, usage.output_tokens or 0
    details = usage.output_tokens_details
    thinking = (details.thinking_tokens or 0) if details is not None else 0
    return _Tokens(prompt, said, prompt + said, _PromptDetails(read, written), _CompletionDetails(thinking))
