"""A chat's messages and tools as vLLM hands them to a chat template (checked against vLLM 0.32).

Everything here is a plain JSON value: templates look into them with rules of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

ContentFormat = Literal["string", "openai"]
"""What a template takes a message's content for: a string, or a list of parts."""
Object = Mapping[str, object]

TEXT_KEYS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal", "thinking": "thinking"}
"""Content parts that are text, by their type: where it stands."""
_PART_FIELDS = frozenset(
    {
        "audio_embeds",
        "audio_url",
        "closed",
        "data",
        "file",
        "image_embeds",
        "image_pil",
        "image_url",
        "input_audio",
        "name",
        "prompt_cache_breakpoint",
        "refusal",
        "text",
        "thinking",
        "type",
        "uuid",
        "video_embeds",
        "video_url",
    }
)
"""Fields of a content part that a template does not see as they are."""
_CALL_FIELDS = ("id", "function", "type")
_FUNCTION_FIELDS = ("arguments", "name")
_CHANGING_HEADER = "x-anthropic-billing-header"
"""A first line that some clients put into the system message; it differs with each request, and engines drop it."""


class Unrenderable(Exception):
    """The engine's prompt cannot be known here: the request has media, or is one that the engine refuses."""


def conversation(messages: list[object], content_format: ContentFormat, *, developer_role: bool) -> list[Object]:
    """The messages for the template.

    developer_role: whether the template knows it; else its messages become one system message.

    Raises:
        Unrenderable: as it says.
    """
    turns = [_turn(message, content_format) for message in messages]
    if not turns:
        raise Unrenderable("no messages")
    if developer_role or all(turn["role"] != "developer" for turn in turns):
        return list(turns)
    return _with_one_system_message(turns)


def tool_schemas(tools: object) -> list[Object] | None:
    """The request's tools: the fields that vLLM knows, in its order, missing ones as null.

    Raises:
        Unrenderable: the engine refuses them.
    """
    if tools is None:
        return None
    if not isinstance(tools, list) or not tools:
        raise Unrenderable("tools are a list that is not empty")
    return [_tool(tool) for tool in tools]


def _tool(tool: object) -> Object:
    given = _mapping(tool)
    function = _mapping(given.get("function"))
    later = given.get("defer_loading")
    schema: dict[str, object] = {
        "name": _string(function.get("name")),
        "description": function.get("description"),
        "parameters": function.get("parameters"),
    }
    if function.get("strict") is not None:
        schema["strict"] = function["strict"]
    function_later = later if function.get("defer_loading") is None else function["defer_loading"]
    if function_later is not None:
        schema["defer_loading"] = function_later
    found: dict[str, object] = {"type": given.get("type", "function"), "function": schema}
    if later is not None:
        found["defer_loading"] = later
    return found


def _turn(message: object, content_format: ContentFormat) -> dict[str, object]:
    given = _mapping(message)
    role = _string(given.get("role"))
    parts = _parts(given.get("content"), system=role == "system")
    turn: dict[str, object] = {"role": role, "content": _content(parts, role, content_format)}
    if role == "assistant":
        _add_calls(turn, given.get("tool_calls"))
        reasoning = given.get("reasoning", given.get("reasoning_content"))
        if reasoning is not None:
            turn["reasoning"] = turn["reasoning_content"] = reasoning
    elif role == "tool" and "tool_call_id" in given:
        turn["tool_call_id"] = given["tool_call_id"]
    for field in ("name", "task"):
        if isinstance(given.get(field), str):
            turn[field] = given[field]
    if role == "developer":
        turn["tools"] = given.get("tools")
    return turn


def _parts(content: object, *, system: bool) -> list[dict[str, object]]:
    """The content as parts of type text."""
    if content is None:
        return []
    listed = [content] if isinstance(content, str) else content
    if not isinstance(listed, list):
        raise Unrenderable("content is a string or a list")
    parts = []
    for one in listed:
        part = _part(one)
        if part is not None and system:
            part = _without_changing_header(part)
        if part is not None:
            parts.append(part)
    return parts


def _part(one: object) -> dict[str, object] | None:
    if isinstance(one, str):
        return {"type": "text", "text": one}
    given = _mapping(one)
    key = TEXT_KEYS.get(_string(given.get("type")))
    if key is None or given.get("uuid") is not None:
        raise Unrenderable("media")
    text = given.get(key)
    if text is None:
        return None
    extra = {name: value for name, value in given.items() if name not in _PART_FIELDS}
    return {"type": "text", "text": _string(text), **extra}


def _without_changing_header(part: dict[str, object]) -> dict[str, object] | None:
    text = _string(part["text"])
    if not text.startswith(_CHANGING_HEADER):
        return part
    rest = text.partition("\n")[2]
    return {**part, "text": rest} if rest else None


def _content(parts: list[dict[str, object]], role: str, content_format: ContentFormat) -> object:
    if content_format == "openai" and role != "tool":
        return parts
    return "\n".join(_string(part["text"]) for part in parts)


def _add_calls(turn: dict[str, object], calls: object) -> None:
    if calls is None or calls == []:
        return
    if not isinstance(calls, list):
        raise Unrenderable("tool_calls are a list")
    turn["tool_calls"] = [_call(call) for call in calls]


def _call(call: object) -> Object:
    given = _mapping(call)
    if given.get("type", "function") != "function":
        raise Unrenderable("only functions are called")
    function = _in_order(_mapping(given.get("function")), _FUNCTION_FIELDS)
    function["arguments"] = _arguments(function.get("arguments"))
    ordered = _in_order(given, _CALL_FIELDS)
    ordered["function"] = function
    return ordered


def _arguments(arguments: object) -> object:
    """Templates want an object; what is none becomes an empty one."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return {}
    return arguments if isinstance(arguments, dict) else {}


def _in_order(given: Object, first: tuple[str, ...]) -> dict[str, object]:
    ordered = {name: given[name] for name in first if name in given}
    return ordered | {name: value for name, value in given.items() if name not in ordered}


def _with_one_system_message(turns: list[dict[str, object]]) -> list[Object]:
    """Developer messages are system messages to a template that does not know them, and many take only one, the first.
    Engines do this only where there is a developer message."""
    renamed: list[Object] = [_as_system(turn) if turn["role"] == "developer" else turn for turn in turns]
    positions = [index for index, turn in enumerate(renamed) if turn["role"] == "system"]
    if positions == [0]:
        return renamed
    texts = [_joined(renamed[index]["content"]) for index in positions]
    merged = {"role": "system", "content": "\n\n".join(text for text in texts if text)}
    return [merged, *(turn for turn in renamed if turn["role"] != "system")]


def _as_system(turn: Object) -> Object:
    return {name: value for name, value in turn.items() if name != "tools"} | {"role": "system"}


def _joined(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(_string(_mapping(part)["text"]) for part in content)
    return _string(content)


def _mapping(value: object) -> Object:
    if not isinstance(value, dict):
        raise Unrenderable("an object is missing")
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise Unrenderable("a string is missing")
    return value
