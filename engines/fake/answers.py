"""What the model says: words, a tool call, or a JSON document; each choice is made in full before it is sent."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from zlib import crc32

import msgspec

from engines.fake.plan import Plan
from engines.fake.schema import minimal_instance
from engines.fake.tokens import make_words, split_text
from engines.fake.wire import ChatRequest, Generate, NamedTool, Tool

_CALL = re.compile(r"\bcall ([A-Za-z0-9_-]{1,64})\s*(\{.*?\})?", re.DOTALL)


@dataclass(slots=True)
class ToolCall:
    id: str
    name: str
    pieces: list[str]

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


@dataclass(slots=True)
class Choice:
    """One answer. Its length in tokens is `len(pieces)`, or that of the calls: one for the name and one per piece."""

    index: int
    pieces: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    finish_reason: str = "stop"
    stop_reason: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def tokens(self) -> int:
        return len(self.pieces) + sum(1 + len(call.pieces) for call in self.calls)


def make_choices(request: Generate, plan: Plan, prompt: str, limit: int, seed: int, first: int = 0) -> list[Choice]:
    """The `n` choices for one prompt, each at most `limit` tokens; equal requests get equal answers."""
    count = max(1, request.n or 1)
    choices = [_choice(request, plan, prompt, limit, seed, first + i) for i in range(count)]
    if plan.finish_reason is not None:
        for choice in choices:
            choice.finish_reason = plan.finish_reason
    return choices


def _choice(request: Generate, plan: Plan, prompt: str, limit: int, seed: int, index: int) -> Choice:
    if isinstance(request, ChatRequest):
        calls = _tool_calls(request, index)
        if calls:
            return Choice(index, calls=calls, finish_reason="tool_calls")
    pieces = _pieces(request, plan, prompt, limit, seed, index)
    choice = Choice(index, pieces)
    if request.ignore_eos or len(pieces) >= limit:
        choice.finish_reason = "length"
        del pieces[limit:]
    _stop(choice, request.stops)
    return choice


def _pieces(request: Generate, plan: Plan, prompt: str, limit: int, seed: int, index: int) -> list[str]:
    wanted = limit if request.ignore_eos else max(plan.output_tokens, request.min_tokens or 0)
    shape = request.response_format
    if plan.text is not None:
        return split_text(plan.text)
    if shape is not None and shape.type in ("json_schema", "json_object"):
        schema = shape.json_schema.schema if shape.json_schema else {"type": "object"}
        return split_text(msgspec.json.encode(minimal_instance(schema)).decode())
    mark = crc32(prompt.encode("utf-8", "surrogatepass"))
    return make_words(min(wanted, limit), f"{seed}/{request.seed}/{mark}/{index}")


def _stop(choice: Choice, stops: list[str]) -> None:
    text = choice.text if stops else ""
    found = [(text.find(stop), stop) for stop in stops if stop and stop in text]
    if not found:
        return
    end, choice.stop_reason = min(found)
    choice.finish_reason = "stop"
    kept: list[str] = []
    for piece in choice.pieces:
        if end <= 0:
            break
        kept.append(piece[:end])
        end -= len(piece)
    choice.pieces = kept


def _tool_calls(request: ChatRequest, index: int) -> list[ToolCall]:
    tools = {tool.function.name: tool for tool in request.tools or ()}
    if not tools or request.tool_choice == "none":
        return []
    wanted = _wanted(request, list(tools))
    return [
        ToolCall(f"call_{index}_{i}", name, split_text(given or _arguments(tools[name])))
        for i, (name, given) in enumerate(wanted)
        if name in tools
    ]


def _wanted(request: ChatRequest, names: list[str]) -> list[tuple[str, str]]:
    if isinstance(request.tool_choice, NamedTool):
        return [(request.tool_choice.function.name, "")]
    last = request.messages[-1] if request.messages else None
    asked = _CALL.findall(last.text) if last is not None and last.role == "user" else []
    if not asked and request.tool_choice == "required":
        return [(names[0], "")]
    return asked


def _arguments(tool: Tool) -> str:
    return msgspec.json.encode(minimal_instance(tool.function.parameters or {})).decode()
