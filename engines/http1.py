"""HTTP/1.1 responses: bytes in, callbacks out. No socket, no clock (RFC 9112).

A chunk that arrives whole, as nearly every streamed token does, is handed on with its framing, so that whoever passes
it on in chunks need not frame it again.
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache
from typing import Protocol

from engines.base import EngineDied, EngineProtocolError

MAX_HEAD_BYTES = 64 * 1024
MAX_LINE_BYTES = 4 * 1024

CHUNK_SIZES = {f"{n:{f}}".encode(): n for n in range(1, 0x4000) for f in ("x", "X")}
"""Chunk-size lines as they are usually written, each with its value."""
_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[^\x00-\x08\n-\x1f\x7f]*)?")
_SIZE_LINE_BEGUN = re.compile(rb"(?:[0-9a-fA-F]{1,15}(?:[ \t]*|[ \t]*;[^\x00-\x08\n-\x1f\x7f]*)\r?)?")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?")
_FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\x00\r\n]*)")
_BARE_LF = re.compile(rb"(?<!\r)\n")


class Target(Protocol):
    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None: ...

    def on_body(self, payload: bytes, framed: bytes | None) -> None: ...

    def on_complete(self) -> None: ...


class _State(enum.Enum):
    HEAD = enum.auto()
    SIZED = enum.auto()
    UNTIL_CLOSE = enum.auto()
    CHUNK_SIZE = enum.auto()
    CHUNK_DATA = enum.auto()
    CHUNK_END = enum.auto()
    TRAILER = enum.auto()
    COMPLETE = enum.auto()


# Bound once: on Python 3.11 each `_State.X` costs 0.1 us.
_HEAD, _SIZED, _UNTIL_CLOSE, _CHUNK_SIZE, _CHUNK_DATA, _CHUNK_END, _TRAILER, _COMPLETE = _State


class ResponseDecoder:
    """Decodes the one response to a request that was not HEAD; `start` begins the next one.

    keep_alive: after completion, whether the connection may carry another request.
    started:    whether any byte of the response has arrived.
    """

    __slots__ = ("_held", "_left", "_state", "_target", "keep_alive", "started")

    def __init__(self) -> None:
        self._target: Target | None = None
        self._state = _COMPLETE
        self._held = b""
        self._left = 0
        self.keep_alive = True
        self.started = False

    def start(self, target: Target) -> None:
        self._target = target
        self._state = _HEAD
        self._held = b""
        self.keep_alive = True
        self.started = False

    def forget(self) -> None:
        """Nothing more comes: let go of the target, which leads back here."""
        self._target = None

    @property
    def at_chunk(self) -> bool:
        """Whether the next byte begins a chunk."""
        return self._state is _CHUNK_SIZE and not self._held

    @property
    def complete(self) -> bool:
        return self._state is _COMPLETE

    def feed(self, data: bytes) -> None:
        """Decode `data`.

        Raises:
            EngineProtocolError: the bytes are no valid response; nothing more may be fed.
        """
        if self._state is _COMPLETE:
            self.keep_alive = False
            raise EngineProtocolError("the engine sent bytes after the end of its answer")
        self.started = True
        buffer = self._held + data if self._held else data
        self._held = b""
        position = 0
        while position < len(buffer):
            step = _STEPS[self._state](self, buffer, position)
            if step < 0:
                self._held = buffer[position:]
                return
            position = step
            if self._state is _COMPLETE:
                # Bytes after the end would be taken for the next answer: no next one on this connection.
                self.keep_alive = self.keep_alive and position == len(buffer)
                self._target.on_complete()  # type: ignore[union-attr]
                return

    def eof(self) -> None:
        """The peer closed.

        Raises:
            EngineDied: before the response was complete.
        """
        if self._state is _UNTIL_CLOSE:
            self._state = _COMPLETE
            self._target.on_complete()  # type: ignore[union-attr]
        elif self._state is not _COMPLETE:
            raise EngineDied("the engine closed the connection before its answer was complete")

    def _head(self, buffer: bytes, position: int) -> int:
        end = buffer.find(b"\r\n\r\n", position)
        if (end if end >= 0 else len(buffer)) - position > MAX_HEAD_BYTES:
            raise EngineProtocolError(f"the head of the engine's answer is over {MAX_HEAD_BYTES} bytes")
        if end < 0:
            if not b"HTTP/1."[: len(buffer) - position] == buffer[position : position + 7]:
                raise EngineProtocolError(f"no HTTP/1.x answer: {buffer[position : position + 40]!r}")
            _refuse_bare_lf(buffer, position)
            return -1
        lines = buffer[position:end].split(b"\r\n")
        match = _STATUS_LINE.fullmatch(lines[0])
        if match is None:
            raise EngineProtocolError(f"bad status line: {lines[0][:80]!r}")
        status = int(match[2])
        headers = _headers(lines)
        if status == 101:
            raise EngineProtocolError("the engine switched protocols without being asked")
        if status >= 200:
            self._begin_body(status, headers, http_1_0=match[1] == b"0")
        return end + 4

    def _begin_body(self, status: int, headers: dict[bytes, bytes], *, http_1_0: bool) -> None:
        connection = headers.get(b"connection", b"").lower()
        self.keep_alive = b"keep-alive" in connection if http_1_0 else b"close" not in connection
        coding = headers.get(b"transfer-encoding")
        length = headers.get(b"content-length")
        self._left = 0
        if status in (204, 304):
            self._state = _COMPLETE
        elif coding is not None:
            if coding.lower() != b"chunked" or http_1_0:
                raise EngineProtocolError(f"unsupported transfer-encoding {coding[:40]!r}")
            self._state = _CHUNK_SIZE
            if length is not None:
                # RFC 9112, 6.3: chunked wins, and the connection is not to be trusted with another answer.
                self.keep_alive = False
        elif length is not None:
            if not length.isdigit() or len(length) > 15:
                raise EngineProtocolError(f"bad content-length {length[:40]!r}")
            self._left = int(length)
            self._state = _SIZED if self._left else _COMPLETE
        else:
            self.keep_alive = False
            self._state = _UNTIL_CLOSE
        self._target.on_head(status, headers)  # type: ignore[union-attr]

    def _sized(self, buffer: bytes, position: int) -> int:
        piece = buffer[position : position + self._left]
        self._left -= len(piece)
        if self._left == 0:
            self._state = _COMPLETE
        self._target.on_body(piece, None)  # type: ignore[union-attr]
        return position + len(piece)

    def _until_close(self, buffer: bytes, position: int) -> int:
        self._target.on_body(buffer[position:], None)  # type: ignore[union-attr]
        return len(buffer)

    def _chunk_size(self, buffer: bytes, position: int) -> int:
        end = buffer.find(b"\r\n", position, position + MAX_LINE_BYTES)
        if end < 0:
            if len(buffer) - position >= MAX_LINE_BYTES:
                raise EngineProtocolError(f"a chunk-size line over {MAX_LINE_BYTES} bytes")
            if not _SIZE_LINE_BEGUN.fullmatch(buffer, position):
                raise EngineProtocolError(f"bad chunk size {buffer[position : position + 40]!r}")
            return -1
        line = buffer[position:end]
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise EngineProtocolError(f"bad chunk size {line[:40]!r}")
        size = int(match[1], 16)
        whole = end + 2 + size + 2
        if size == 0:
            self._state = _TRAILER
        elif len(buffer) >= whole and buffer.startswith(b"\r\n", whole - 2):
            framed = buffer[position:whole] if len(match[1]) == len(line) else None
            self._target.on_body(buffer[end + 2 : whole - 2], framed)  # type: ignore[union-attr]
            return whole
        else:
            self._left = size
            self._state = _CHUNK_DATA
        return end + 2

    def _chunk_data(self, buffer: bytes, position: int) -> int:
        piece = buffer[position : position + self._left]
        self._left -= len(piece)
        if self._left == 0:
            self._state = _CHUNK_END
        self._target.on_body(piece, None)  # type: ignore[union-attr]
        return position + len(piece)

    def _chunk_end(self, buffer: bytes, position: int) -> int:
        if not b"\r\n".startswith(buffer[position : position + 2]):
            raise EngineProtocolError("a chunk is longer than its size says")
        if len(buffer) - position < 2:
            return -1
        self._state = _CHUNK_SIZE
        return position + 2

    def _trailer(self, buffer: bytes, position: int) -> int:
        end = buffer.find(b"\r\n", position)
        if end < 0:
            if len(buffer) - position > MAX_LINE_BYTES:
                raise EngineProtocolError(f"a trailer line over {MAX_LINE_BYTES} bytes")
            _refuse_bare_lf(buffer, position)
            return -1
        if end == position:
            self._state = _COMPLETE
        else:
            _field(buffer[position:end])
        return end + 2


_STEPS = {
    _HEAD: ResponseDecoder._head,
    _SIZED: ResponseDecoder._sized,
    _UNTIL_CLOSE: ResponseDecoder._until_close,
    _CHUNK_SIZE: ResponseDecoder._chunk_size,
    _CHUNK_DATA: ResponseDecoder._chunk_data,
    _CHUNK_END: ResponseDecoder._chunk_end,
    _TRAILER: ResponseDecoder._trailer,
}


def _headers(lines: list[bytes]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for line in lines[1:]:
        name, value = _field(line)
        if name in headers:
            if name == b"content-length" and headers[name] != value:
                raise EngineProtocolError("two different content-length headers")
            if name in (b"transfer-encoding", b"connection"):
                value = headers[name] + b", " + value
        headers[name] = value
    return headers


@lru_cache(maxsize=1024)
def _field(line: bytes) -> tuple[bytes, bytes]:
    """Name in lower case and value; an engine sends the same few lines again and again."""
    match = _FIELD_LINE.fullmatch(line)
    if match is None:
        raise EngineProtocolError(f"bad header line {line[:80]!r}")
    return match[1].lower(), match[2].strip(b" \t")


def _refuse_bare_lf(buffer: bytes, position: int) -> None:
    """Lines that end in LF alone would be waited for in vain: no CRLF will ever end them."""
    if _BARE_LF.search(buffer, position):
        raise EngineProtocolError(f"a line of the engine's answer does not end in CRLF: {buffer[position:][:80]!r}")
