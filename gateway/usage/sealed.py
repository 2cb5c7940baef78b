"""Entries that only a holder of the key can read, in files of a day each."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SUFFIX = ".content"
_HEAD = struct.Struct(">II")
_NONCE_BYTES = 12
_SALT = b"headrace content log"
_DAY = re.compile(r"(\d{4})(\d\d)(\d\d)-[0-9a-f]+\.content")


class Sealed(msgspec.Struct, frozen=True, array_like=True, tag="sealed"):
    """request_id: also bound to what is sealed. key_id: by which key."""

    request_id: str
    key_id: str
    nonce: bytes
    sealed: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Sealed).decode


class Unreadable(Exception):
    """An entry cannot be opened; the message says why."""


class Seal:
    """Seals with the first of `keys`, and opens with any.

    Raises:
        ImportError: the extra is not installed.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers: Mapping[str, AESGCM] = {key_id(key): _cipher(key) for key in keys}
        self.key_id = key_id(keys[0])

    def __repr__(self) -> str:
        return f"<Seal {self.key_id} of {len(self._ciphers)} keys>"

    def close(self, request_id: str, content: bytes) -> Sealed:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self.key_id].encrypt(nonce, content, request_id.encode())
        return Sealed(request_id, self.key_id, nonce, sealed)

    def open(self, entry: Sealed) -> bytes:
        """
        Raises:
            Unreadable: by none of the keys, or it was tampered with.
        """
        from cryptography.exceptions import InvalidTag

        cipher = self._ciphers.get(entry.key_id)
        if cipher is None:
            message = f"sealed with key {entry.key_id}, which is neither content_log.key nor in content_log.old_keys"
            raise Unreadable(message)
        try:
            return bytes(cipher.decrypt(entry.nonce, entry.sealed, entry.request_id.encode()))
        except InvalidTag:
            raise Unreadable("it was changed after it was sealed, or damaged") from None


def key_of(secret: str) -> bytes:
    """A key from a secret. Takes some 50 ms on purpose: a secret may be one that somebody made up."""
    return hashlib.scrypt(secret.encode(), salt=_SALT, n=1 << 14, r=8, p=1, dklen=32)


def key_id(key: bytes) -> str:
    """Tells keys apart and says nothing of them."""
    return hashlib.sha256(b"headrace content key " + key).hexdigest()[:8]


def file_of(folder: Path, day: datetime.date, writer: str) -> Path:
    """That of one writer on one day."""
    return folder / f"{day:%Y%m%d}-{writer}{SUFFIX}"


def framed(entry: Sealed) -> bytes:
    payload = _encode(entry)
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def entries(path: Path) -> Iterator[Sealed]:
    """Those that are whole."""
    with path.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, check = _HEAD.unpack(head)
            payload = file.read(length)
            if len(payload) < length or not length:
                return
            if zlib.crc32(payload) == check:
                with contextlib.suppress(msgspec.MsgspecError):
                    yield _decode(payload)


def find(folder: Path, request_id: str) -> Iterator[Sealed]:
    """All entries of a request, the oldest day first."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        yield from (entry for entry in entries(path) if entry.request_id == request_id)


def prune(folder: Path, today: datetime.date, days: int) -> int:
    """Delete the files of days that are over `days` days ago. Returns how many."""
    count = 0
    for path in folder.glob(f"*{SUFFIX}"):
        named = _DAY.fullmatch(path.name)
        if named and (today - datetime.date(*map(int, named.groups()))).days > days:
            path.unlink(missing_ok=True)
            count += 1
    return count


def _cipher(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise ImportError('content_log needs cryptography: pip install "headrace[content-log]"') from error
    return AESGCM(key)
