"""What an engine's JSON looks like, apart from what it says: a shape with holes, and the pieces that fill them.

The events of a stream differ in a few characters, so a stream is kept as its few shapes and its many pieces, and comes
out again byte for byte. A hole is a control character, which valid JSON never has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

ID: Final = b"\x01"
CREATED: Final = b"\x02"
MODEL: Final = b"\x03"
PIECE: Final = b"\x04"
USAGE: Final = b"\x05"
NULL: Final = b"null"
TEXTS: Final = ("content", "reasoning_content", "reasoning", "refusal", "text")
"""Fields whose strings grow piece by piece."""

Fields = dict[str, msgspec.Raw]

_HOLES: Final = {"id": ID, "created": CREATED, "model": MODEL, "usage": USAGE}
_DROPPED: Final = frozenset({"timings", "obfuscation"})
"""What speaks of the engine's work rather than of the answer, and padding."""
_PLAIN: Final = rb'[^"\\\x00-\x1f]*'
_STRING: Final = re.compile(rb'"%b(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})%b)*"' % (_PLAIN, _PLAIN))

_is_string: Final = _STRING.fullmatch
SSE_DATA: Final = b"data: "

decode_fields = msgspec.json.Decoder(Fields).decode
decode_list = msgspec.json.Decoder(list[Fields]).decode
decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
decode_text = msgspec.json.Decoder(str).decode
encode = msgspec.json.encode

MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def shape_of(fields: Fields) -> bytes:
    """The shape of a body or an event: holes for what each answer has of its own, the rest as it is."""
    return to_object((name, _HOLES.get(name) or value) for name, value in lasting(fields).items())


def lasting(fields: Fields) -> Fields:
    """What speaks of the answer rather than of how it came about."""
    return fields if _DROPPED.isdisjoint(fields) else {name: fields[name] for name in fields if name not in _DROPPED}


def to_object(fields: Iterable[tuple[str, bytes | msgspec.Raw]]) -> bytes:
    return b"{%b}" % b",".join([b"%b:%b" % (_key(name), bytes(value)) for name, value in fields])


@lru_cache(maxsize=512)
def _key(name: str) -> bytes:
    return encode(name)


def take_piece(choice: Fields) -> tuple[bytes, bytes, str]:
    """A choice of an event with a hole for what it says, what it says as raw JSON, and the field that does. Without
    such a field the latter two are empty.

    Raises:
        msgspec.DecodeError: it has not the shape of a choice.
    """
    if "text" in choice:
        return _take_text(choice, ("text",))
    raw = bytes(choice.get("delta", NULL))
    if raw == NULL:
        return to_object(choice.items()), b"", ""
    delta = decode_fields(raw)
    shape, piece, name = _take_text(delta, TEXTS)
    if len(piece) < 3 and bytes(delta.get("tool_calls", NULL)) != NULL:
        shape, piece, name = _take_arguments(delta)
    return to_object((n, shape if n == "delta" else value) for n, value in choice.items()), piece, name


def _take_text(fields: Fields, names: tuple[str, ...]) -> tuple[bytes, bytes, str]:
    """Of several texts the first that is not empty."""
    texts = [(name, bytes(fields[name])) for name in names if name in fields]
    texts = [(name, raw) for name, raw in texts if raw.startswith(b'"')]
    chosen, piece = next((text for text in texts if text[1] != b'""'), texts[0] if texts else ("", b""))
    return to_object((name, PIECE if name == chosen else value) for name, value in fields.items()), piece, chosen


def _take_arguments(delta: Fields) -> tuple[bytes, bytes, str]:
    calls = decode_list(delta["tool_calls"])
    whole = to_object(delta.items())
    if len(calls) != 1 or bytes(calls[0].get("function", NULL)) == NULL:
        return whole, b"", ""
    function = decode_fields(calls[0]["function"])
    piece = bytes(function.get("arguments", NULL))
    if not piece.startswith(b'"'):
        return whole, b"", ""
    said = to_object((name, PIECE if name == "arguments" else value) for name, value in function.items())
    call = to_object((name, said if name == "function" else value) for name, value in calls[0].items())
    shape = to_object((name, b"[%b]" % call if name == "tool_calls" else value) for name, value in delta.items())
    return shape, piece, "arguments"


class Layout(NamedTuple):
    """An event of one line as it came, around its piece. Another one between the same bytes has the same shape."""

    head: bytes
    tail: bytes
    step: bytes
    """What stands for its shape."""

    def piece(self, event: bytes) -> bytes | None:
        """The piece of an event that is laid out so; None: it is not."""
        head, tail, _ = self
        if not (event.startswith(head) and event.endswith(tail)):
            return None
        piece = event[len(head) : -len(tail)]
        return piece if _is_string(piece) else None


def layout_of(data: bytes, name: str, piece: bytes, step: bytes) -> Layout | None:
    """None: where the piece stands is not plain."""
    sought = b'"%b":%b' % (name.encode(), piece)
    if not name or data.count(sought) != 1:
        return None
    end = data.index(sought) + len(sought)
    return Layout(SSE_DATA + data[: end - len(piece)], data[end:], step)


class Filling(NamedTuple):
    """What fills the holes, as JSON."""

    id: bytes
    created: bytes
    model: bytes
    usage: bytes

    def fill(self, shape: bytes) -> bytes:
        """The shape with no hole but that of its piece."""
        filled = shape.replace(ID, self.id).replace(CREATED, self.created).replace(MODEL, self.model)
        return filled.replace(USAGE, self.usage)


NOTHING: Final = Filling(b'""', b"0", b'""', NULL)
