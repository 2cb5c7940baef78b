"""A token taken apart (RFC 7515, compact form). Nothing in it is believed yet. No I/O."""

from __future__ import annotations

import binascii
from dataclasses import dataclass

import msgspec

MAX_BYTES = 16 * 1024
"""Of a whole token; Entra's, with 200 groups, have 8 KiB."""
MAX_KID_BYTES = 1024


class Malformed(Exception):
    """It is no signed token that this gateway reads."""


class Header(msgspec.Struct):
    """Of all that a header may have, nothing else is looked at: `jku`, `jwk`, `x5u` and `x5c` name keys that the sender
    chose. `crit` names extensions that must be understood, and none is."""

    alg: str
    kid: str | None = None
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Registered(msgspec.Struct):
    """Claims that RFC 7519 gives a meaning to. Times are Unix times in seconds."""

    iss: str
    aud: str | list[str]
    exp: float
    nbf: float | None = None
    iat: float | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """signed: the bytes over which the signature goes."""

    header: Header
    registered: Registered
    payload: bytes
    signed: bytes
    signature: bytes

    def names(self, audiences: frozenset[str]) -> bool:
        """Whether it is for one of `audiences`."""
        aud = self.registered.aud
        return aud in audiences if isinstance(aud, str) else not audiences.isdisjoint(aud)


_header = msgspec.json.Decoder(Header).decode
_registered = msgspec.json.Decoder(Registered).decode


def take_apart(token: bytes) -> Parts:
    """Raises:
    Malformed: too long, not three parts of base64url, not JSON, no issuer, audience or expiry, or `crit`.
    """
    if len(token) > MAX_BYTES:
        raise Malformed(f"over {MAX_BYTES} bytes")
    signed, _, last = token.rpartition(b".")
    first, _, middle = signed.partition(b".")
    try:
        payload = _plain(middle)
        header, registered = _header(_plain(first)), _registered(payload)
        signature = _plain(last)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Malformed(str(error)) from None
    if header.crit is not msgspec.UNSET:
        raise Malformed("`crit` names extensions that are not known")
    if header.kid is not None and len(header.kid) > MAX_KID_BYTES:
        raise Malformed(f"`kid` is over {MAX_KID_BYTES} bytes")
    return Parts(header, registered, payload, signed, signature)


def _plain(part: bytes) -> bytes:
    """base64url without padding, and nothing but that."""
    if b"=" in part or b"+" in part or b"/" in part:
        raise ValueError("not base64url")
    padded = part.translate(_TO_STANDARD) + b"=" * (-len(part) % 4)
    return binascii.a2b_base64(padded, strict_mode=True)


_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
