"""Records as bytes, so that a file that was cut anywhere still tells which of them it holds. No I/O.

A frame is the payload's length and its CRC-32, 4 bytes each, big endian, and the payload in msgpack.
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import dataclass

import msgspec

from gateway.usage.record import Tariff, UsageRecord

Item = UsageRecord | Tariff
_HEAD = struct.Struct(">II")
MAX_PAYLOAD = 1 << 20
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Item).decode


class Ending(enum.StrEnum):
    """How a piece of a file ends.

    WHOLE:   after a frame.
    CUT:     within its last one: the writer is in the middle of it, or was when it ended or the power went.
    DAMAGED: with what was never written like that.
    """

    WHOLE = "whole"
    CUT = "cut"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Piece:
    """items: those that are whole. end: how many bytes they take, from the beginning of the data."""

    items: list[Item]
    end: int
    ending: Ending


def framed(item: Item) -> bytes:
    payload = _encode(item)
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def parse(data: bytes) -> Piece:
    """The items at the beginning of `data`, which begins with a frame."""
    items: list[Item] = []
    at, view = 0, memoryview(data)
    while True:
        rest = len(data) - at
        if not rest:
            return Piece(items, at, Ending.WHOLE)
        if rest < _HEAD.size:
            return Piece(items, at, Ending.CUT)
        length, check = _HEAD.unpack_from(data, at)
        if not 0 < length <= MAX_PAYLOAD:
            # A file that grew before its data reached the disk reads as zeros.
            return Piece(items, at, Ending.DAMAGED if any(view[at:]) else Ending.CUT)
        begin = at + _HEAD.size
        after = begin + length
        if after > len(data):
            return Piece(items, at, Ending.CUT)
        payload = view[begin:after]
        if zlib.crc32(payload) != check:
            return Piece(items, at, Ending.DAMAGED if any(view[after:]) else Ending.CUT)
        try:
            items.append(_decode(payload))
        except msgspec.MsgspecError:
            return Piece(items, at, Ending.DAMAGED)
        at = after
