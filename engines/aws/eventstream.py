"""Decoder of `application/vnd.amazon.eventstream`: bytes in, messages out. No socket, no clock.

A message is `total length | headers length | CRC of these two | headers | payload | CRC of all before it`; the numbers
have 32 bits, big-endian. The limits are those of AWS's own SDKs.
"""

from __future__ import annotations

import struct
from zlib import crc32

import msgspec

from engines.base import EngineDied, EngineProtocolError

MAX_HEADERS_BYTES = 128 * 1024
MAX_PAYLOAD_BYTES = 24 * 1024 * 1024
_PRELUDE = struct.Struct("!III")
_CRC_BYTES = 4
_FRAME_BYTES = _PRELUDE.size + _CRC_BYTES
"""What a message without headers and payload takes."""
_NUMBERS = {2: struct.Struct("!b"), 3: struct.Struct("!h"), 4: struct.Struct("!i"), 5: struct.Struct("!q")}
_BYTES, _STRING, _TIMESTAMP, _UUID = 6, 7, 8, 9
_NUMBERS[_TIMESTAMP] = _NUMBERS[5]

Value = bool | int | bytes | str


class Message(msgspec.Struct, frozen=True):
    """One message. A timestamp among the headers is in Unix milliseconds, a UUID is its 16 bytes."""

    headers: dict[str, Value]
    payload: bytes

    @property
    def kind(self) -> str:
        """`event`, `exception` (one of the API's own) or `error` (of the service at large)."""
        return str(self.headers.get(":message-type", "event"))

    @property
    def name(self) -> str:
        """The type of the event or the exception, or the error's code."""
        for header in (":event-type", ":exception-type", ":error-code"):
            if header in self.headers:
                return str(self.headers[header])
        return ""


class EventStreamDecoder:
    """The state of one stream."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._needed = 0
        """Length of the message that has begun, once its prelude has been read."""

    def __repr__(self) -> str:
        return f"<EventStreamDecoder held={len(self._held)}>"

    def feed(self, data: bytes) -> list[Message]:
        """Take the next piece, cut anywhere; give the messages that it completes.

        Raises:
            EngineProtocolError: a checksum, a length or a header is wrong.
        """
        held = self._held
        held += data
        messages = []
        begin = 0
        while self._has_message(begin):
            end = begin + self._needed
            messages.append(_message(bytes(held[begin:end])))
            begin, self._needed = end, 0
        del held[:begin]
        return messages

    def finish(self) -> None:
        """The stream is at its end.

        Raises:
            EngineDied: it ends inside a message.
        """
        if self._held:
            raise EngineDied(f"the event stream ended {len(self._held)} bytes into a message")

    def _has_message(self, begin: int) -> bool:
        available = len(self._held) - begin
        if not self._needed:
            if available < _PRELUDE.size:
                return False
            self._needed = _length(bytes(self._held[begin : begin + _PRELUDE.size]))
        return available >= self._needed


def _length(prelude: bytes) -> int:
    total, headers, crc = _PRELUDE.unpack(prelude)
    if crc32(prelude[:-_CRC_BYTES]) != crc:
        raise EngineProtocolError("the checksum of an event stream's prelude is wrong")
    payload = total - headers - _FRAME_BYTES
    if headers > MAX_HEADERS_BYTES or not 0 <= payload <= MAX_PAYLOAD_BYTES:
        raise EngineProtocolError(
            f"an event stream's message of {total} bytes with {headers} of headers is over the limits of "
            f"{MAX_PAYLOAD_BYTES} and {MAX_HEADERS_BYTES}, or contradicts itself"
        )
    return int(total)


def _message(raw: bytes) -> Message:
    if crc32(raw[:-_CRC_BYTES]) != int.from_bytes(raw[-_CRC_BYTES:], "big"):
        raise EngineProtocolError("the checksum of an event stream's message is wrong")
    headers_end = _PRELUDE.size + int.from_bytes(raw[4:8], "big")
    try:
        headers = _headers(raw[_PRELUDE.size : headers_end])
    except (ValueError, IndexError, struct.error) as error:
        raise EngineProtocolError(f"the headers of an event stream's message cannot be read: {error}") from None
    return Message(headers, raw[headers_end:-_CRC_BYTES])


def _headers(raw: bytes) -> dict[str, Value]:
    headers: dict[str, Value] = {}
    at = 0
    while at < len(raw):
        name_end = at + 1 + raw[at]
        name = raw[at + 1 : name_end].decode()
        if name in headers:
            raise ValueError(f"{name!r} stands twice")
        headers[name], at = _value(raw, raw[name_end], name_end + 1)
    return headers


def _value(raw: bytes, kind: int, at: int) -> tuple[Value, int]:
    """The value that begins at `at`, and where it ends."""
    if kind in (0, 1):
        return kind == 0, at
    if kind in _NUMBERS:
        number = _NUMBERS[kind]
        return int(number.unpack_from(raw, at)[0]), at + number.size
    if kind == _UUID:
        begin, end = at, at + 16
    elif kind in (_BYTES, _STRING):
        begin = at + 2
        end = begin + int.from_bytes(raw[at:begin], "big")
    else:
        raise ValueError(f"there is no type {kind}")
    if end > len(raw):
        raise ValueError("a value is cut off")
    value = raw[begin:end]
    return (value.decode() if kind == _STRING else value), end
