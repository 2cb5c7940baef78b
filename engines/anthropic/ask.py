"""A chat request of OpenAI's as the Messages API takes it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec
from msgspec import UNSET, Raw, UnsetType

from engines.adapter import CannotSay

_HARMLESS: Mapping[str, tuple[object, ...]] = {
    "n": (None, 1),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "modalities": (None, [], ["text"]),
    "audio": (None,),
    "web_search_options": (None,),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
}
"""What the Messages API cannot do, and the values that do not ask for it."""
_HINTS = frozenset({
    "metadata", "moderation", "prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    "safety_identifier", "seed", "service_tier", "store", "stream_options", "user", "verbosity",
})  # fmt: skip
"""Left out: they change how OpenAI serves a request, not what may be answered."""
_TRANSLATED = frozenset({
    "max_completion_tokens", "max_tokens", "messages", "model", "parallel_tool_calls", "reasoning_effort",
    "response_format", "stop", "stream", "temperature", "tool_choice", "tools", "top_p",
})  # fmt: skip
_DATA_URL = re.compile(r"data:([\w.+/-]+);base64,(.*)", re.DOTALL)
_ABSENT = (b"", b"null")
_NO_PARAMETERS = Raw(b'{"type":"object","properties":{}}')
_EFFORTS = {"minimal": "low"}
"""Efforts that go by another name there."""


# What OpenAI's clients send


class _Url(msgspec.Struct):
    url: str


class _File(msgspec.Struct):
    file_data: str | None = None
    filename: str | None = None


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _Url | None = None
    file: _File | None = None
    cache_control: Raw | UnsetType = UNSET


class _Function(msgspec.Struct):
    name: str
    arguments: str = ""
    description: str | UnsetType = UNSET
    parameters: Raw = Raw(b"")
    strict: bool | None = None


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None


class _Tool(msgspec.Struct):
    type: str = "function"
    function: _Function | None = None
    cache_control: Raw | UnsetType = UNSET


class _Name(msgspec.Struct):
    name: str


class _Chosen(msgspec.Struct):
    function: _Name | None = None


class _Schema(msgspec.Struct):
    schema: Raw = Raw(b"")


class _Format(msgspec.Struct):
    type: str
    json_schema: _Schema | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Ask(msgspec.Struct):
    messages: list[_Message]
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | _Chosen | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Format | None = None
    reasoning_effort: str | None = None


# What the Messages API takes


class _Block(msgspec.Struct, tag_field="type"):
    pass


class _Text(_Block, tag="text"):
    text: str
    cache_control: Raw | UnsetType = UNSET


class _Base64(msgspec.Struct, tag_field="type", tag="base64"):
    media_type: str
    data: str


class _Link(msgspec.Struct, tag_field="type", tag="url"):
    url: str


class _Image(_Block, tag="image"):
    source: _Base64 | _Link
    cache_control: Raw | UnsetType = UNSET


class _Document(_Block, tag="document"):
    source: _Base64
    title: str | UnsetType = UNSET
    cache_control: Raw | UnsetType = UNSET


class _ToolUse(_Block, tag="tool_use"):
    id: str
    name: str
    input: Raw


class _ToolResult(_Block, tag="tool_result"):
    tool_use_id: str
    content: list[_Block]


class _Turn(msgspec.Struct):
    role: str
    content: list[_Block]


class _OfferedTool(msgspec.Struct):
    name: str
    input_schema: Raw
    description: str | UnsetType = UNSET
    strict: bool | UnsetType = UNSET
    cache_control: Raw | UnsetType = UNSET


class _Choice(msgspec.Struct):
    type: str
    name: str | UnsetType = UNSET
    disable_parallel_tool_use: bool | UnsetType = UNSET


class _OutputFormat(msgspec.Struct, tag_field="type", tag="json_schema"):
    schema: Raw


class _OutputConfig(msgspec.Struct):
    effort: str | UnsetType = UNSET
    format: _OutputFormat | UnsetType = UNSET


class _Wanted(msgspec.Struct):
    model: str
    max_tokens: int
    messages: list[_Turn]
    system: list[_Block] | UnsetType = UNSET
    stream: bool | UnsetType = UNSET
    stop_sequences: list[str] | UnsetType = UNSET
    temperature: float | UnsetType = UNSET
    top_p: float | UnsetType = UNSET
    tools: list[_OfferedTool] | UnsetType = UNSET
    tool_choice: _Choice | UnsetType = UNSET
    output_config: _OutputConfig | UnsetType = UNSET


class Asked(msgspec.Struct, frozen=True):
    """The request in Anthropic's form, and what its answer has to heed."""

    body: bytes
    wants_usage: bool


_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_ask = msgspec.json.Decoder(_Ask).decode


def ask(body: bytes, max_tokens: int) -> Asked:
    """What becomes of a chat request; `max_tokens` is for one that sets none. Fields unknown here pass as they are.

    Raises:
        CannotSay: the Messages API cannot do what the request asks for.
    """
    try:
        fields, asked = _decode_fields(body), _decode_ask(body)
    except msgspec.ValidationError as error:
        raise CannotSay(f"Wrong type: {error}.", code="invalid_type") from None
    for name, harmless in _HARMLESS.items():
        if name in fields and msgspec.json.decode(fields[name]) not in harmless:
            raise CannotSay(f"Anthropic's models do not offer `{name}`.", param=name)
    wanted = _Wanted(
        model=asked.model,
        max_tokens=next((n for n in (asked.max_completion_tokens, asked.max_tokens) if n is not None), max_tokens),
        messages=_turns(asked.messages),
        system=_system(asked.messages) or UNSET,
        stream=asked.stream or UNSET,
        stop_sequences=([asked.stop] if isinstance(asked.stop, str) else asked.stop) or UNSET,
        # Anthropic's own compatible API caps it there too: its scale ends at 1.
        temperature=UNSET if asked.temperature is None else min(asked.temperature, 1.0),
        top_p=UNSET if asked.top_p is None else asked.top_p,
        tools=[_offered(tool) for tool in asked.tools or ()] or UNSET,
        tool_choice=_choice(asked),
        output_config=_output(asked),
    )
    known = _HARMLESS.keys() | _HINTS | _TRANSLATED
    passed = {name: value for name, value in fields.items() if name not in known and bytes(value) != b"null"}
    whole = msgspec.json.encode(wanted)
    if passed:
        whole = msgspec.json.encode(passed | _decode_fields(whole))
    options = asked.stream_options
    return Asked(whole, wants_usage=options is not None and bool(options.include_usage))


def _system(messages: list[_Message]) -> list[_Block]:
    return [block for message in messages if message.role in ("system", "developer") for block in _blocks(message)]


def _turns(messages: list[_Message]) -> list[_Turn]:
    """All but the system's. Results of parallel tool calls stand together in one turn, as the API wants them."""
    turns: list[_Turn] = []
    for message in messages:
        if message.role in ("system", "developer"):
            continue
        role, blocks = _turn(message)
        if turns and turns[-1].role == role:
            turns[-1].content += blocks
        else:
            turns.append(_Turn(role, blocks))
    return turns


def _turn(message: _Message) -> tuple[str, list[_Block]]:
    if message.role == "user":
        return "user", list(_blocks(message))
    if message.role == "assistant":
        return "assistant", [*_blocks(message), *(_tool_use(call) for call in message.tool_calls or ())]
    if message.role == "tool" and message.tool_call_id:
        return "user", [_ToolResult(message.tool_call_id, list(_blocks(message)))]
    wrong = "a tool message without `tool_call_id`" if message.role == "tool" else f"the role {message.role[:50]!r}"
    raise CannotSay(f"Anthropic's models do not take {wrong}.", param="messages", code="invalid_value")


def _blocks(message: _Message) -> Iterator[_Block]:
    """The content; without empty texts, which the API refuses."""
    content = message.content
    if isinstance(content, str):
        if content:
            yield _Text(content)
        return
    for part in content or ():
        if part.type in ("text", "refusal"):
            if text := part.text or part.refusal:
                yield _Text(text, part.cache_control)
        elif part.type == "image_url" and part.image_url is not None:
            yield _Image(_source(part.image_url.url), part.cache_control)
        elif part.type == "file" and part.file is not None and part.file.file_data:
            yield _document(part, part.file.file_data)
        else:
            raise CannotSay(f"Anthropic's models do not take content of the type {part.type[:50]!r}.", param="messages")


def _source(url: str) -> _Base64 | _Link:
    data = _DATA_URL.fullmatch(url)
    if data is not None:
        return _Base64(data[1], data[2])
    if url.startswith(("https://", "http://")):
        return _Link(url)
    raise CannotSay("An image needs an http(s) URL or a base64 data URL.", param="messages", code="invalid_value")


def _document(part: _Part, file_data: str) -> _Document:
    data = _DATA_URL.fullmatch(file_data)
    if data is None:
        raise CannotSay("A file needs `file_data` as a base64 data URL.", param="messages", code="invalid_value")
    assert part.file is not None
    return _Document(_Base64(data[1], data[2]), part.file.filename or UNSET, part.cache_control)


def _tool_use(call: _ToolCall) -> _ToolUse:
    arguments = call.function.arguments or "{}"
    try:
        _decode_fields(arguments)
    except msgspec.DecodeError:
        message = f"The arguments of the tool call {call.id[:100]!r} are no JSON object."
        raise CannotSay(message, param="messages", code="invalid_value") from None
    return _ToolUse(call.id, call.function.name, Raw(arguments.encode()))


def _offered(tool: _Tool) -> _OfferedTool:
    function = tool.function
    if tool.type != "function" or function is None:
        raise CannotSay(f"Anthropic's models do not take tools of the type {tool.type[:50]!r}.", param="tools")
    return _OfferedTool(
        function.name,
        function.parameters if bytes(function.parameters) not in _ABSENT else _NO_PARAMETERS,
        function.description,
        UNSET if function.strict is None else function.strict,
        tool.cache_control,
    )


def _choice(asked: _Ask) -> _Choice | UnsetType:
    if not asked.tools:
        return UNSET
    alone = True if asked.parallel_tool_calls is False else UNSET
    chosen = asked.tool_choice
    if isinstance(chosen, _Chosen):
        if chosen.function is None:
            raise CannotSay("Anthropic's models take a function as `tool_choice`.", param="tool_choice")
        return _Choice("tool", chosen.function.name, alone)
    if chosen is None and alone is UNSET:
        return UNSET
    kinds = {"auto": "auto", "none": "none", "required": "any"}
    kind = kinds.get(chosen or "auto")
    if kind is None:
        raise CannotSay(f"`tool_choice` is one of {', '.join(kinds)}, or a function.", param="tool_choice")
    return _Choice(kind, disable_parallel_tool_use=UNSET if kind == "none" else alone)


def _output(asked: _Ask) -> _OutputConfig | UnsetType:
    output = _OutputConfig()
    wanted = asked.response_format
    schema = wanted.json_schema.schema if wanted is not None and wanted.json_schema is not None else Raw(b"")
    if wanted is not None and wanted.type == "json_schema" and bytes(schema) not in _ABSENT:
        output.format = _OutputFormat(schema)
    elif wanted is not None and wanted.type != "text":
        message = f"Anthropic's models do not offer the format {wanted.type[:50]!r}; give a schema as `json_schema`."
        raise CannotSay(message, param="response_format")
    effort = asked.reasoning_effort
    if effort and effort != "none":
        output.effort = _EFFORTS.get(effort, effort)
    return UNSET if output == _OutputConfig() else output
