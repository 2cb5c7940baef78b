"""What the engine takes: request bodies of vLLM's OpenAI-compatible API, and the errors for those it refuses."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from engines.fake.options import Overrides


class Refusal(Exception):
    """A request that gets an error in vLLM's shape."""

    def __init__(self, status: int, message: str, kind: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        return msgspec.json.encode({"error": error})


class UnexpectedKeys(Refusal):
    """In the shape of transformers' server, which takes no field outside the OpenAI API."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(422, f"Unexpected keys in the request: {', '.join(names)}", "Unprocessable Entity")

    def body(self) -> bytes:
        return msgspec.json.encode({"detail": self.message})


class ContentPart(msgspec.Struct):
    type: str
    text: str = ""


class Message(msgspec.Struct):
    role: str
    content: str | list[ContentPart] | None = None

    @property
    def text(self) -> str:
        """The words of the message; of an image or another part its type in angle brackets."""
        if isinstance(self.content, list):
            return "".join(part.text or f"<{part.type}>" for part in self.content)
        return self.content or ""


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = False


class ToolFunction(msgspec.Struct):
    name: str
    parameters: dict[str, object] | None = None


class Tool(msgspec.Struct):
    function: ToolFunction


class NamedTool(msgspec.Struct):
    function: ToolFunction


class JsonSchema(msgspec.Struct):
    schema: dict[str, object] | None = None


class ResponseFormat(msgspec.Struct):
    type: str = "text"
    json_schema: JsonSchema | None = None


Prompt = str | list[str | int | list[int]]
"""A text, the ids of one, or several of either."""


class Generate(msgspec.Struct, kw_only=True):
    """What chat and completions have in common."""

    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = 1
    max_tokens: int | None = None
    min_tokens: int | None = 0
    ignore_eos: bool | None = False
    stop: str | list[str] | None = None
    seed: int | None = None
    cache_salt: str | None = None
    response_format: ResponseFormat | None = None
    fake: Overrides | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Generate, kw_only=True):
    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    tools: list[Tool] | None = None
    tool_choice: str | NamedTool | None = None

    def prompt(self) -> str:
        return render(self.messages)


class CompletionRequest(Generate, kw_only=True):
    prompt: Prompt
    logprobs: int | None = None
    echo: bool | None = False


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    input: Prompt
    model: str | None = None
    dimensions: int | None = None
    encoding_format: str | None = "float"
    fake: Overrides | None = None


class TokenizeRequest(msgspec.Struct, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    return_token_strs: bool | None = False


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    tokens: list[int]
    model: str | None = None


_FIELDS = (
    "model messages prompt input stream stream_options n max_tokens max_completion_tokens stop seed temperature top_p "
    "presence_penalty frequency_penalty logit_bias logprobs top_logprobs user tools tool_choice parallel_tool_calls "
    "response_format functions function_call suffix echo best_of metadata modalities prediction reasoning_effort "
    "service_tier store verbosity dimensions encoding_format tokens fake"
)
_OPENAI = frozenset(_FIELDS.split())

R = TypeVar("R")


def render(messages: list[Message]) -> str:
    """The chat template: each message behind its role, then the turn of the assistant."""
    return "".join(f"<{m.role}> {m.text}\n" for m in messages) + "<assistant>"


def parse(body: bytes, kind: type[R], *, refuse_unknown: bool = False) -> R:
    """The request.

    Raises:
        Refusal: 400 for what is no such request, 422 for fields outside the OpenAI API when those are refused.
    """
    try:
        if refuse_unknown:
            _refuse_unknown(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, str(error), "Bad Request") from error
    except RecursionError as error:
        raise Refusal(400, "the JSON is nested too deeply", "Bad Request") from error


def _refuse_unknown(fields: dict[str, msgspec.Raw]) -> None:
    unknown = sorted(set(fields) - _OPENAI)
    if unknown:
        raise UnexpectedKeys(unknown)
