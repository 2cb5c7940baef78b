"""OpenAI's chat request, as far as an engine that does not speak it must understand it."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from engines.adapter import CannotSay

ABSENT = msgspec.Raw(b"")


def given(raw: msgspec.Raw) -> bool:
    """Whether a field was in the body, and not null."""
    return bytes(raw) not in (b"", b"null")


class ImageUrl(msgspec.Struct):
    url: str


class Part(msgspec.Struct):
    """One part of a message's content; which field is set depends on `type`."""

    type: str = "text"
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None


class FunctionCall(msgspec.Struct):
    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct):
    id: str
    function: FunctionCall


class ChatMessage(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = ABSENT
    strict: bool | None = None


class Tool(msgspec.Struct):
    type: str = "function"
    function: Function | None = None


class NamedFunction(msgspec.Struct):
    name: str


class NamedTool(msgspec.Struct):
    type: str = "function"
    function: NamedFunction | None = None


class JsonSchema(msgspec.Struct):
    name: str | None = None
    description: str | None = None
    schema: msgspec.Raw = ABSENT


class ResponseFormat(msgspec.Struct):
    type: str = "text"
    json_schema: JsonSchema | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class ChatBody(msgspec.Struct):
    """`additional_fields` and those after it are Converse's own, under its own names."""

    model: str
    messages: list[ChatMessage]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    logprobs: bool | None = None
    logit_bias: dict[str, float] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    modalities: list[str] | None = None
    functions: msgspec.Raw = ABSENT
    additional_fields: msgspec.Raw | msgspec.UnsetType = msgspec.field(
        default=msgspec.UNSET, name="additionalModelRequestFields"
    )
    guardrail: msgspec.Raw | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="guardrailConfig")
    performance: msgspec.Raw | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="performanceConfig")
    metadata_of_request: msgspec.Raw | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="requestMetadata")
    tier: msgspec.Raw | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="serviceTier")

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


_T = TypeVar("_T")


def read_body(body: bytes, kind: type[_T]) -> _T:
    """Raises:
    CannotSay: a field is missing or has the wrong type.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CannotSay(f"The body is not valid: {error}.", code="invalid_type") from None
