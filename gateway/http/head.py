"""Which request heads are served. What llhttp lets pass and RFC 9112 forbids or leaves open is refused here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from gateway.errors import ApiError, BodyTooLarge, InvalidRequest

_WEIGHED = frozenset({b"host", b"content-length", b"transfer-encoding"})
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
MAX_HOST_BYTES = 300
_ORIGIN = re.compile(rb"https?://[^/?#]+", re.IGNORECASE)


def origin_form(method: bytes, target: bytes) -> bytes | None:
    """The target as path and query, also of one that names a whole URL; None: it is neither.

    Tunnels are not served, so no method takes an authority.
    """
    if method == b"CONNECT":
        return None
    if target.startswith(b"/"):
        return target
    origin = _ORIGIN.match(target)
    if origin is not None:
        rest = target[origin.end() :]
        return rest if rest.startswith(b"/") else b"/" + rest
    return target if target == b"*" and method == b"OPTIONS" else None


def fault_of(version: str, headers: Iterable[tuple[bytes, bytes]], max_body_bytes: int) -> ApiError | None:
    """Why a request with these headers, their names in lower case, is refused; None: it is not.

    Two readers of one connection must agree where a body ends, so whatever two could read in two ways is refused:
    repeated or combined lengths, and codings other than one plain `chunked` (RFC 9112, 6.1 and 6.3).
    """
    if version not in ("1.1", "1.0"):
        return InvalidRequest(f"HTTP/{version} is not served here; use HTTP/1.1.", code="unsupported_http_version")
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _WEIGHED:
            if name in found:
                return InvalidRequest(f"The request has more than one {name.decode()} header.", code="malformed_http")
            found[name] = value.strip(b" \t")  # llhttp leaves what follows a value
    host = found.get(b"host")
    if (host is None and version == "1.1") or (
        host is not None and not (len(host) <= MAX_HOST_BYTES and _is_host(host))
    ):
        return InvalidRequest("An HTTP/1.1 request needs one valid Host header.", code="malformed_http")
    if b"transfer-encoding" in found:
        return _fault_of_coding(version, found)
    return _fault_of_length(found.get(b"content-length", b"0"), max_body_bytes)


@lru_cache(maxsize=256)
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def _fault_of_coding(version: str, found: dict[bytes, bytes]) -> ApiError | None:
    plain = found[b"transfer-encoding"].lower() == b"chunked"
    if plain and version == "1.1" and b"content-length" not in found:
        return None
    message = "Transfer-encoding can only be `chunked`, in HTTP/1.1 and without a content-length."
    return InvalidRequest(message, code="malformed_http")


def _fault_of_length(length: bytes, max_body_bytes: int) -> ApiError | None:
    if not length.isdigit() or len(length) > 18:
        return InvalidRequest("The content-length is not a number.", code="malformed_http")
    if int(length) > max_body_bytes:
        return too_large(int(length), max_body_bytes)
    return None


def too_large(size_bytes: int, limit_bytes: int) -> ApiError:
    message = f"The body of {size_bytes} bytes is over the limit of {limit_bytes} (server.max_body_bytes)."
    return BodyTooLarge(message)
