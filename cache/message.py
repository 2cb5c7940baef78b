"""An answer's message: put together from the pieces of a stream, and cut into such pieces again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from cache.shapes import NULL, TEXTS, Fields, decode_fields, decode_list, decode_raws, decode_text, encode, to_object

_PIECE: Final = re.compile(r"\s{0,20}\S{1,20}|\s{1,20}")
"""A word with the space before it, as most tokens are; text without spaces a few characters at a time."""
_CALLS: Final = ("tool_calls", "function_call")


@dataclass(slots=True)
class Function:
    """A call of a function. name and arguments grow; `fields` is all that is beside them."""

    name: str = ""
    arguments: str = ""
    fields: Fields = field(default_factory=dict)

    def take(self, fields: Fields) -> None:
        for name, raw in fields.items():
            if bytes(raw) == NULL:
                continue
            if name == "name":
                self.name += decode_text(raw)
            elif name == "arguments":
                self.arguments += decode_text(raw)
            else:
                self.fields[name] = raw

    def json(self) -> bytes:
        named = [("name", encode(self.name)), ("arguments", encode(self.arguments))]
        return to_object([*named, *self.fields.items()])


@dataclass(slots=True)
class ToolCall:
    """fields: all but its index and its function."""

    fields: Fields = field(default_factory=dict)
    function: Function = field(default_factory=Function)

    def take(self, fields: Fields) -> None:
        for name, raw in fields.items():
            if name == "function" and bytes(raw) != NULL:
                self.function.take(decode_fields(raw))
            elif name != "index" and bytes(raw) != NULL:
                self.fields[name] = raw

    def json(self) -> bytes:
        return to_object([*self.fields.items(), ("function", self.function.json())])


@dataclass(slots=True)
class Message:
    """What an answer says.

    texts:  of `content`, reasoning, refusal and, of a completion, `text`: what there is, in its order.
    calls:  of tools, by index.
    fields: everything else that is not null: role, annotations, content that is no string, and what else an engine
            knows.
    """

    texts: dict[str, str] = field(default_factory=dict)
    calls: dict[int, ToolCall] = field(default_factory=dict)
    function: Function | None = None
    fields: dict[str, bytes] = field(default_factory=dict)

    def take(self, delta: Fields) -> None:
        """Add a delta, or a whole message.

        Raises:
            msgspec.DecodeError: it is of no known shape.
        """
        for name, raw in delta.items():
            value = bytes(raw)
            if value == NULL:
                continue
            if name in TEXTS and value.startswith(b'"'):
                self.texts[name] = self.texts.get(name, "") + decode_text(raw)
            elif name == "tool_calls":
                for place, call in enumerate(decode_list(raw)):
                    self._call(call, place)
            elif name == "function_call":
                self.function = self.function or Function()
                self.function.take(decode_fields(raw))
            elif value.startswith(b"[") and name in self.fields:
                both = [*decode_raws(self.fields[name]), *decode_raws(raw)]
                self.fields[name] = b"[%b]" % b",".join(map(bytes, both))
            else:
                self.fields[name] = value

    def grow(self, name: bytes | None, call: bytes | None, said: str) -> None:
        """Add to the text of that name, or to the arguments of the call with that index."""
        if name is not None:
            self.texts[name.decode()] = self.texts.get(name.decode(), "") + said
        elif call is not None:
            self.calls.setdefault(int(call), ToolCall()).function.arguments += said

    def _call(self, call: Fields, place: int) -> None:
        index = msgspec.json.decode(call["index"], type=int) if "index" in call else place
        self.calls.setdefault(index, ToolCall()).take(call)

    @property
    def says_something(self) -> bool:
        return bool(self.calls or self.function or any(self.texts.values()) or "content" in self.fields)

    def text(self) -> str:
        """What it says, for comparing: its content, its refusal and its calls, as JSON; not how it came to them."""
        said = [self.texts[name] for name in ("content", "text", "refusal") if self.texts.get(name)]
        if "content" in self.fields:
            said.append(self.fields["content"].decode())
        functions = [call.function for _, call in sorted(self.calls.items())]
        if self.function is not None:
            functions.append(self.function)
        if functions:
            said.append(f"[{','.join(_compared(function) for function in functions)}]")
        return "\n".join(said)

    def json(self) -> bytes:
        """As in a whole answer."""
        content = self.texts.get("content", "")
        speaks = bool(content) or not (self.calls or self.function)
        parts = [
            ("role", b'"assistant"'),
            ("content", encode(content) if speaks else NULL),
            *[(name, encode(text)) for name, text in self.texts.items() if name != "content"],
        ]
        parts = list({**dict(parts), **self.fields}.items())
        if self.function is not None:
            parts.append(("function_call", self.function.json()))
        if self.calls:
            calls = b",".join([call.json() for _, call in sorted(self.calls.items())])
            parts.append(("tool_calls", b"[%b]" % calls))
        return to_object(parts)

    def deltas(self) -> Iterator[bytes]:
        """As in a stream: its role first, then what it says word by word, reasoning before content, calls last."""
        opening = NULL if (self.calls or self.function) and not self.texts.get("content") else b'""'
        yield to_object([("role", self.fields.get("role", b'"assistant"')), ("content", opening)])
        for name in sorted(self.texts, key=lambda name: not name.startswith("reasoning")):
            for piece in cut(self.texts[name]):
                yield to_object([(name, encode(piece))])
        for name, value in self.fields.items():
            if name != "role":
                yield to_object([(name, value)])
        for place, (_, call) in enumerate(sorted(self.calls.items())):
            yield from _call_deltas(place, call)
        if self.function is not None:
            yield from _function_deltas(self.function)


def cut(text: str) -> list[str]:
    """A text in pieces of about a word."""
    return _PIECE.findall(text)


def _compared(function: Function) -> str:
    try:
        arguments = msgspec.json.decode(function.arguments)
    except msgspec.DecodeError:
        arguments = function.arguments
    return encode({"name": function.name, "arguments": arguments}, order="sorted").decode()


def _call_deltas(place: int, call: ToolCall) -> Iterator[bytes]:
    index = b"%d" % place
    named = to_object([("name", encode(call.function.name)), ("arguments", b'""'), *call.function.fields.items()])
    yield b'{"tool_calls":[%b]}' % to_object([("index", index), *call.fields.items(), ("function", named)])
    for piece in cut(call.function.arguments):
        yield b'{"tool_calls":[{"index":%b,"function":{"arguments":%b}}]}' % (index, encode(piece))


def _function_deltas(function: Function) -> Iterator[bytes]:
    yield b'{"function_call":{"name":%b,"arguments":""}}' % encode(function.name)
    for piece in cut(function.arguments):
        yield b'{"function_call":{"arguments":%b}}' % encode(piece)
