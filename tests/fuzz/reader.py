"""A second reading of HTTP/1.1, by the book (RFC 9112) and by nothing of ours: what a connection's bytes ask for.

It allows what llhttp allows and no two readers can take in two ways: blank lines before a request, more than one space
in a request line, RTSP for HTTP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) +([\x21-\x7e]+) +(?:HTTP|RTSP|ICE)/1\.([01])")
_TARGET = re.compile(rb"/.*|(?i:https?)://[^/?#]+.*|\*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)[ \t]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?")

Fields = list[tuple[bytes, bytes]]


class End(Enum):
    """What stands after the last whole request."""

    NOTHING = "nothing"
    CUT = "the beginning of a request"
    BAD = "what is none"


@dataclass(frozen=True)
class Message:
    """A whole request. `last`: it asks for the connection to end."""

    method: bytes
    target: bytes
    fields: Fields
    body: bytes
    last: bool


class _Cut(Exception):
    pass


class _Bad(Exception):
    pass


def requests_in(data: bytes) -> tuple[list[Message], End]:
    messages: list[Message] = []
    at = 0
    while True:
        while data[at : at + 1] in (b"\r", b"\n"):
            at += 1
        if at == len(data):
            return messages, End.NOTHING
        try:
            message, at = _message(data, at)
        except _Cut:
            return messages, End.CUT
        except _Bad:
            return messages, End.BAD
        messages.append(message)


def _message(data: bytes, at: int) -> tuple[Message, int]:
    line, at = _line(data, at)
    match = _LINE.fullmatch(line)
    if match is None or match[1] == b"CONNECT" or not _TARGET.fullmatch(match[2]):
        raise _Bad
    fields, at = _fields(data, at)
    minor = match[3]
    chunked, length = _framing(fields, minor)
    if chunked:
        body, at = _chunks(data, at)
    else:
        body, at = _exactly(data, at, length)
    tokens = {t.strip().lower() for name, value in fields if name == b"connection" for t in value.split(b",")}
    return Message(match[1], match[2], fields, body, b"close" in tokens or minor == b"0"), at


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b"\n", at)
    if end < 0:
        raise _Cut
    if data[end - 1 : end] != b"\r":
        raise _Bad
    return data[at : end - 1], end + 1


def _fields(data: bytes, at: int) -> tuple[Fields, int]:
    fields: Fields = []
    while True:
        line, at = _line(data, at)
        if not line:
            return fields, at
        match = _FIELD.fullmatch(line)
        if match is None:
            raise _Bad
        fields.append((match[1].lower(), match[2]))


def _framing(fields: Fields, minor: bytes) -> tuple[bool, int]:
    """Whether the body is chunked, and else its length."""
    hosts, lengths, codings = (
        [v for n, v in fields if n == x] for x in (b"host", b"content-length", b"transfer-encoding")
    )
    if len(hosts) > 1 or (not hosts and minor == b"1") or len(lengths) > 1 or len(codings) > 1:
        raise _Bad
    if codings:
        if lengths or minor == b"0" or codings[0].lower() != b"chunked":
            raise _Bad
        return True, 0
    if lengths and not (lengths[0].isdigit() and len(lengths[0]) < 19):
        raise _Bad
    return False, int(lengths[0]) if lengths else 0


def _chunks(data: bytes, at: int) -> tuple[bytes, int]:
    body = b""
    while True:
        line, at = _line(data, at)
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise _Bad
        size = int(match[1], 16)
        if size == 0:
            return body, _fields(data, at)[1]
        piece, at = _exactly(data, at, size)
        body += piece
        end, at = _exactly(data, at, 2)
        if end != b"\r\n":
            raise _Bad


def _exactly(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if len(data) - at < size:
        raise _Cut
    return data[at : at + size], at + size
