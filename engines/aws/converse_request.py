"""A chat request of OpenAI's as one of Bedrock Converse."""

from __future__ import annotations

import msgspec

from engines.adapter import CannotSay
from engines.aws.chat import ChatBody, ChatMessage, NamedTool, Part, ResponseFormat, Tool, given

_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_NO_PARAMETERS = msgspec.Raw(b'{"type":"object","properties":{}}')
_ROLES = {"user": "user", "tool": "user", "assistant": "assistant"}
_Passed = msgspec.Raw | msgspec.UnsetType


class _Converse(msgspec.Struct, rename="camel", omit_defaults=True):
    """What Converse takes; a field that is not set is not sent."""


class _Source(_Converse):
    bytes: str


class _Image(_Converse):
    format: str
    source: _Source


class _ToolUse(_Converse):
    tool_use_id: str
    name: str
    input: msgspec.Raw


class _ToolResult(_Converse):
    tool_use_id: str
    content: list[_Block]


class _Block(_Converse):
    text: str | None = None
    image: _Image | None = None
    tool_use: _ToolUse | None = None
    tool_result: _ToolResult | None = None


class _Message(_Converse):
    role: str
    content: list[_Block]


class _InferenceConfig(_Converse):
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop_sequences: list[str] | None = None


class _InputSchema(_Converse):
    json: msgspec.Raw


class _ToolSpec(_Converse):
    name: str
    input_schema: _InputSchema
    description: str | None = None
    strict: bool | None = None


class _Tool(_Converse):
    tool_spec: _ToolSpec


class _Name(_Converse):
    name: str


class _Empty(_Converse):
    pass


class _ToolChoice(_Converse):
    auto: _Empty | None = None
    any: _Empty | None = None
    tool: _Name | None = None


class _ToolConfig(_Converse):
    tools: list[_Tool]
    tool_choice: _ToolChoice | None = None


class _SchemaText(_Converse):
    schema: str
    name: str | None = None
    description: str | None = None


class _Structure(_Converse):
    json_schema: _SchemaText


class _TextFormat(_Converse):
    type: str
    structure: _Structure


class _OutputConfig(_Converse):
    text_format: _TextFormat | None = None
    effort: str | None = None


class _Body(_Converse):
    messages: list[_Message]
    system: list[_Block] | None = None
    inference_config: _InferenceConfig | None = None
    tool_config: _ToolConfig | None = None
    output_config: _OutputConfig | None = None
    additional_model_request_fields: _Passed = msgspec.UNSET
    guardrail_config: _Passed = msgspec.UNSET
    performance_config: _Passed = msgspec.UNSET
    request_metadata: _Passed = msgspec.UNSET
    service_tier: _Passed = msgspec.UNSET


def converse_body(chat: ChatBody) -> bytes:
    """The body of Converse and ConverseStream.

    Raises:
        CannotSay: Converse has no words for it.
    """
    _refuse(chat)
    system, messages = _conversation(chat.messages)
    body = _Body(
        messages=messages,
        system=system or None,
        inference_config=_inference(chat),
        tool_config=_tools(chat),
        output_config=_output(chat.response_format, chat.reasoning_effort),
        additional_model_request_fields=chat.additional_fields,
        guardrail_config=chat.guardrail,
        performance_config=chat.performance,
        request_metadata=chat.metadata_of_request,
        service_tier=chat.tier,
    )
    return msgspec.json.encode(body)


def _refuse(chat: ChatBody) -> None:
    asked = {
        "n": (chat.n or 1) > 1,
        "logprobs": chat.logprobs,
        "logit_bias": chat.logit_bias,
        "presence_penalty": chat.presence_penalty,
        "frequency_penalty": chat.frequency_penalty,
        "modalities": set(chat.modalities or ()) - {"text"},
        "functions": given(chat.functions),
        "parallel_tool_calls": chat.parallel_tool_calls is False and chat.tools,
    }
    for name, wanted in asked.items():
        if wanted:
            message = f"Bedrock Converse does not offer `{name}`; what the model itself takes goes into"
            raise CannotSay(f"{message} `additionalModelRequestFields`.", param=name)


def _conversation(told: list[ChatMessage]) -> tuple[list[_Block], list[_Message]]:
    """System text apart, and turns that alternate: a model gets all results of its tools in one."""
    system: list[_Block] = []
    messages: list[_Message] = []
    for message in told:
        if message.role in ("system", "developer"):
            system += _blocks(message, images=False)
            continue
        role = _ROLES.get(message.role)
        if role is None:
            raise CannotSay(f"Bedrock Converse has no role {message.role[:64]!r}.", param="messages")
        blocks = _turn(message)
        if messages and messages[-1].role == role:
            messages[-1].content += blocks
        elif blocks:
            messages.append(_Message(role, blocks))
    return system, messages


def _turn(message: ChatMessage) -> list[_Block]:
    if message.role == "tool":
        if not message.tool_call_id:
            raise CannotSay("A message of the role `tool` needs its `tool_call_id`.", param="messages")
        return [_Block(tool_result=_ToolResult(message.tool_call_id, _blocks(message, images=True)))]
    blocks = _blocks(message, images=message.role == "user")
    for call in message.tool_calls or ():
        arguments = _object(call.function.arguments or "{}")
        blocks.append(_Block(tool_use=_ToolUse(call.id, call.function.name, arguments)))
    return blocks


def _blocks(message: ChatMessage, *, images: bool) -> list[_Block]:
    """Converse refuses empty text, which callers send beside tool calls."""
    if message.content is None:
        return []
    if isinstance(message.content, str):
        return [_Block(text=message.content)] if message.content else []
    blocks = [_block(part, images=images) for part in message.content]
    return [block for block in blocks if block.text != ""]


def _block(part: Part, *, images: bool) -> _Block:
    if part.type == "text":
        return _Block(text=part.text or "")
    if part.type == "refusal":
        return _Block(text=part.refusal or "")
    if part.type == "image_url" and part.image_url is not None and images:
        url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
        return _Block(image=_image(url))
    raise CannotSay(f"Bedrock Converse takes no content of the type {part.type[:64]!r} here.", param="messages")


def _image(url: str) -> _Image:
    head, comma, data = url.partition(",")
    kind, _, coding = head.removeprefix("data:").partition(";")
    name = _IMAGES.get(kind.lower())
    if not (comma and head.startswith("data:") and coding == "base64" and name):
        raise CannotSay(
            f"Bedrock Converse takes images as data URLs (`data:image/png;base64,…`; png, jpeg, gif or webp), "
            f"not {url[:40]!r}.",
            param="messages",
        )
    return _Image(name, _Source(data))


def _object(arguments: str) -> msgspec.Raw:
    try:
        msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        raise CannotSay("The `arguments` of a tool call are not a JSON object.", param="messages") from None
    return msgspec.Raw(arguments.encode())


def _inference(chat: ChatBody) -> _InferenceConfig | None:
    config = _InferenceConfig(
        max_tokens=chat.max_completion_tokens or chat.max_tokens,
        temperature=chat.temperature,
        top_p=chat.top_p,
        stop_sequences=([chat.stop] if isinstance(chat.stop, str) else chat.stop) or None,
    )
    return config if config != _InferenceConfig() else None


def _tools(chat: ChatBody) -> _ToolConfig | None:
    if not chat.tools:
        return None
    if chat.tool_choice == "none":
        if any(message.tool_calls or message.role == "tool" for message in chat.messages):
            message = "Bedrock Converse cannot forbid tools (`none`) once the conversation has tool calls."
            raise CannotSay(message, param="tool_choice")
        return None
    return _ToolConfig([_tool(tool) for tool in chat.tools], _choice(chat.tool_choice))


def _tool(tool: Tool) -> _Tool:
    function = tool.function
    if tool.type != "function" or function is None:
        raise CannotSay(f"Bedrock Converse takes functions as tools, not {tool.type[:64]!r}.", param="tools")
    schema = _InputSchema(function.parameters if given(function.parameters) else _NO_PARAMETERS)
    return _Tool(_ToolSpec(function.name, schema, function.description or None, function.strict))


def _choice(choice: str | NamedTool | None) -> _ToolChoice | None:
    if choice is None:
        return None
    if isinstance(choice, NamedTool) and choice.type == "function" and choice.function is not None:
        return _ToolChoice(tool=_Name(choice.function.name))
    if choice == "auto":
        return _ToolChoice(auto=_Empty())
    if choice == "required":
        return _ToolChoice(any=_Empty())
    raise CannotSay("Bedrock Converse has no such `tool_choice`.", param="tool_choice")


def _output(wanted: ResponseFormat | None, effort: str | None) -> _OutputConfig | None:
    text_format = None
    if wanted is not None and wanted.type != "text":
        text_format = _text_format(wanted)
    if text_format is None and effort is None:
        return None
    return _OutputConfig(text_format, effort)


def _text_format(wanted: ResponseFormat) -> _TextFormat:
    schema = wanted.json_schema
    if wanted.type != "json_schema" or schema is None or not given(schema.schema):
        message = f"Bedrock Converse does not offer the `response_format` {wanted.type[:64]!r}; give a `json_schema`."
        raise CannotSay(message, param="response_format")
    text = _SchemaText(bytes(schema.schema).decode(), schema.name, schema.description)
    return _TextFormat("json_schema", _Structure(text))
