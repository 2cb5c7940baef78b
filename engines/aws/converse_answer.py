"""What Bedrock Converse and ConverseStream answer, as OpenAI's chat completion."""

from __future__ import annotations

import uuid

import msgspec

from engines.adapter import DONE, event, now_s
from engines.aws.errors import stream_error
from engines.aws.eventstream import EventStreamDecoder, Message
from engines.base import EngineDied, EngineProtocolError

_FINISH = {
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
_SERVER_TOOL = "server_tool_use"


class _Answer(msgspec.Struct, rename="camel"):
    """What Converse says; fields that are not named here are not read."""


class _ReasoningText(_Answer):
    text: str = ""


class _Reasoning(_Answer):
    reasoning_text: _ReasoningText | None = None


class _ToolUse(_Answer):
    tool_use_id: str
    name: str
    input: msgspec.Raw = msgspec.Raw(b"{}")
    type: str | None = None


class _Text(_Answer):
    text: str = ""


class _Cited(_Answer):
    content: list[_Text] = []


class _Block(_Answer):
    text: str | None = None
    tool_use: _ToolUse | None = None
    reasoning_content: _Reasoning | None = None
    citations_content: _Cited | None = None


class _Said(_Answer):
    content: list[_Block] = []


class _Output(_Answer):
    message: _Said


class _Usage(_Answer):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0


class _Whole(_Answer):
    output: _Output
    stop_reason: str = "end_turn"
    usage: _Usage | None = None


class _ToolStart(_Answer):
    tool_use_id: str
    name: str
    type: str | None = None


class _Start(_Answer):
    tool_use: _ToolStart | None = None


class _ToolDelta(_Answer):
    input: str = ""


class _ReasoningDelta(_Answer):
    text: str = ""


class _Delta(_Answer):
    text: str | None = None
    tool_use: _ToolDelta | None = None
    reasoning_content: _ReasoningDelta | None = None


class _Event(_Answer):
    """The payload of every event; which fields are set depends on its type."""

    content_block_index: int = 0
    start: _Start = msgspec.field(default_factory=_Start)
    delta: _Delta = msgspec.field(default_factory=_Delta)
    stop_reason: str = "end_turn"
    usage: _Usage | None = None


_decode_whole = msgspec.json.Decoder(_Whole).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def whole_answer(body: bytes, model: str) -> bytes:
    """Raises:
    EngineProtocolError: it is no answer of Converse.
    """
    try:
        answer = _decode_whole(body)
    except _MALFORMED as error:
        raise EngineProtocolError(f"Bedrock's answer is not of Converse's form: {error}") from None
    choice = {"index": 0, "message": _message(answer.output.message.content), "finish_reason": _finish(answer)}
    completion = _head("chat.completion", model) | {"choices": [choice]}
    if answer.usage is not None:
        completion["usage"] = _usage(answer.usage)
    return msgspec.json.encode(completion)


def _message(blocks: list[_Block]) -> dict[str, object]:
    text = "".join(_text(block) for block in blocks)
    reasoning = "".join(
        block.reasoning_content.reasoning_text.text
        for block in blocks
        if block.reasoning_content is not None and block.reasoning_content.reasoning_text is not None
    )
    uses = [block.tool_use for block in blocks if block.tool_use is not None]
    calls = [_call(use.tool_use_id, use.name, bytes(use.input).decode()) for use in uses if use.type != _SERVER_TOOL]
    message: dict[str, object] = {"role": "assistant", "content": text or (None if calls else "")}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return message


def _text(block: _Block) -> str:
    cited = block.citations_content
    return (block.text or "") + ("".join(piece.text for piece in cited.content) if cited is not None else "")


def _call(call_id: str, name: str, arguments: str) -> dict[str, object]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _finish(answer: _Whole | _Event) -> str:
    return _FINISH.get(answer.stop_reason, "stop")


def _usage(usage: _Usage) -> dict[str, object]:
    """Converse does not count among the input what the prompt cache read or wrote; OpenAI does."""
    prompt = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_write_input_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage.output_tokens,
        "total_tokens": prompt + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_input_tokens,
            "cache_creation_tokens": usage.cache_write_input_tokens,
        },
    }


def _head(kind: str, model: str) -> dict[str, object]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": now_s(), "model": model}


class ConverseReader:
    """Implements `StreamReader` for ConverseStream."""

    def __init__(self, model: str, *, wants_usage: bool) -> None:
        self._decoder = EventStreamDecoder()
        self._head = _head("chat.completion.chunk", model)
        self._wants_usage = wants_usage
        self._calls: dict[int, int] = {}
        """Index of the tool call that a content block holds."""
        self._silent: set[int] = set()
        """Blocks of tool calls that have no arguments yet."""
        self._stopped = False
        self._failed = False

    def feed(self, payload: bytes) -> bytes:
        out = []
        for message in self._decoder.feed(payload):
            if self._failed:
                break
            out.append(self._take(message))
        return b"".join(out)

    def finish(self) -> bytes:
        if self._failed:
            return b""
        self._decoder.finish()
        if not self._stopped:
            raise EngineDied("Bedrock ended its stream before the message was complete")
        return DONE

    def _take(self, message: Message) -> bytes:
        if message.kind != "event":
            self._failed = True
            return stream_error(message)
        try:
            said = _decode_event(message.payload)
        except _MALFORMED as error:
            raise EngineProtocolError(f"Bedrock's event {message.name!r} cannot be read: {error}") from None
        return self._chunk(message.name, said)

    def _chunk(self, name: str, said: _Event) -> bytes:
        match name:
            case "messageStart":
                return self._say({"role": "assistant", "content": ""})
            case "contentBlockStart":
                return self._start_call(said)
            case "contentBlockDelta":
                return self._delta(said)
            case "contentBlockStop" if said.content_block_index in self._silent:
                return self._arguments(said.content_block_index, "{}")
            case "messageStop":
                self._stopped = True
                return self._say({}, _finish(said))
            case "metadata" if self._wants_usage and said.usage is not None:
                return event(self._head | {"choices": [], "usage": _usage(said.usage)})
        return b""

    def _start_call(self, said: _Event) -> bytes:
        use = said.start.tool_use
        if use is None or use.type == _SERVER_TOOL:
            return b""
        index = self._calls[said.content_block_index] = len(self._calls)
        self._silent.add(said.content_block_index)
        return self._say({"tool_calls": [{"index": index} | _call(use.tool_use_id, use.name, "")]})

    def _delta(self, said: _Event) -> bytes:
        delta = said.delta
        if delta.text:
            return self._say({"content": delta.text})
        if delta.reasoning_content is not None and delta.reasoning_content.text:
            return self._say({"reasoning_content": delta.reasoning_content.text})
        if delta.tool_use is not None and delta.tool_use.input and said.content_block_index in self._calls:
            return self._arguments(said.content_block_index, delta.tool_use.input)
        return b""

    def _arguments(self, block: int, text: str) -> bytes:
        self._silent.discard(block)
        return self._say({"tool_calls": [{"index": self._calls[block], "function": {"arguments": text}}]})

    def _say(self, delta: dict[str, object], finish_reason: str | None = None) -> bytes:
        return event(self._head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})
