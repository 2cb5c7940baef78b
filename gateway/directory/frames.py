"""What the office tells the workers of the directory, over a socket and in a file: frames of msgpack.

    Begin Keys* Whole (Changed | Alive)*

A frame is four bytes of length, big endian, and a message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import msgspec

from gateway.config.database_options import Database
from gateway.directory.entries import Changes, KeyEntry, OrganisationEntry, TeamEntry

LENGTH_BYTES = 4
MAX_FRAME_BYTES = 64 * 1024 * 1024
"""A longer one is taken for garbage."""


class Begin(msgspec.Struct, frozen=True, tag=True):
    """All that was known before is void once `Whole` follows. See `Snapshot`."""

    seq: int
    salt: str
    organisations: list[OrganisationEntry]
    teams: list[TeamEntry]


class Keys(msgspec.Struct, frozen=True, tag=True):
    """Some more keys. `packed`: a `KeyEntry` each, as msgpack: whoever holds 100,000 of them reads the few in use."""

    packed: list[bytes]


class Whole(msgspec.Struct, frozen=True, tag=True):
    """These were all. at: when the database was last reached, Unix time."""

    at: float


class Changed(msgspec.Struct, frozen=True, tag=True):
    changes: Changes
    at: float


class Alive(msgspec.Struct, frozen=True, tag=True):
    """The database was reached at `at`, and what was told is all that there is."""

    at: float


Frame = Begin | Keys | Whole | Changed | Alive

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)
_key_encoder = msgspec.msgpack.Encoder()
_key_decoder = msgspec.msgpack.Decoder(KeyEntry)


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """The beginning of a `KeyEntry`."""

    id: str
    digest: bytes


_head_decoder = msgspec.msgpack.Decoder(_Head)


def pack_key(entry: KeyEntry) -> bytes:
    return _key_encoder.encode(entry)


def unpack_key(packed: bytes) -> KeyEntry:
    return _key_decoder.decode(packed)


def head_of(packed: bytes) -> tuple[str, bytes]:
    """Id and digest of a packed key."""
    head = _head_decoder.decode(packed)
    return head.id, head.digest


def pack(frame: Frame) -> bytes:
    packed = _encoder.encode(frame)
    return len(packed).to_bytes(LENGTH_BYTES, "big") + packed


class Frames:
    """Takes bytes as they come, and gives the frames that are whole.

    Raises:
        ValueError: these are no frames.
    """

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        received = self._received
        received += data
        while len(received) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(received[:LENGTH_BYTES], "big")
            if end > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {end} bytes")
            if len(received) < end:
                return
            packed = bytes(received[LENGTH_BYTES:end])
            del received[:end]
            yield _decoder.decode(packed)


def snapshot_file(folder: Path, database: Database) -> Path:
    """Where the directory of a database is kept for starts without it; `folder` is the gateway's own.

    Another database has another file, also one of another user. A new password changes nothing.
    """
    url = urlsplit(database.url.get_secret_value())
    path = str(Path(url.path[1:]).absolute()) if url.scheme.startswith("sqlite") else url.path
    query = sorted((name, value) for name, value in parse_qsl(url.query) if "password" not in name)
    address = f"{url.scheme} {url.username} {url.hostname} {url.port} {path} {query}"
    return folder / "office" / f"directory-{hashlib.sha256(address.encode()).hexdigest()[:16]}.snapshot"
