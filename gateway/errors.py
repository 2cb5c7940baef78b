"""What a client may be told went wrong.

ApiError
├── the caller was wrong
│   ├── InvalidRequest       400  invalid_request_error
│   ├── Unauthenticated      401  authentication_error
│   ├── Forbidden            403  permission_error
│   ├── NotFound             404  invalid_request_error
│   ├── MethodNotAllowed     405  invalid_request_error
│   ├── RequestTimeout       408  timeout_error
│   ├── Conflict             409  invalid_request_error
│   ├── BodyTooLarge         413  invalid_request_error
│   ├── UnsupportedMediaType 415  invalid_request_error
│   ├── HeadersTooLarge      431  invalid_request_error
│   ├── NotCached            504  invalid_request_error
│   └── RateLimited          429  rate_limit_error
│       └── InsufficientQuota 429  insufficient_quota
├── the engine was wrong
│   ├── UpstreamFailed       502  server_error
│   ├── UpstreamTimeout      504  timeout_error
│   ├── Overloaded           503  server_is_overloaded
│   └── NoHealthyBackend     503  server_error
└── we were wrong
    ├── LimitsUnavailable    503  server_error
    └── InternalError        500  server_error

Foreign exceptions become one of these in `gateway/upstream.py` (engines) and here (`from_exception`), nowhere else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import ClassVar

import msgspec

MAX_RETRY_AFTER_S = 120.0
"""openai-python does not retry at all when told to wait longer."""


class ApiError(Exception):
    """An answer in OpenAI's error shape.

    message: for the caller; names the value, the limit and the setting.
    code:    stable, for programs. param: the body field at fault.
    retry_after_s: when a retry may succeed; sent as `retry-after` and `retry-after-ms`.
    should_retry: overrides what SDKs do by themselves (`x-should-retry`).
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "internal_error"
    log_level: ClassVar[int] = logging.INFO

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after_s = min(retry_after_s, MAX_RETRY_AFTER_S) if retry_after_s is not None else None
        self.should_retry = should_retry

    def clean(self, text: Callable[[str], str]) -> None:
        """Pass everything that an engine may have said through `text`, which knows what nobody may see (A25)."""
        self.message = text(self.message)
        self.code = text(self.code)
        self.param = self.param and text(self.param)

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def event(self) -> bytes:
        """The error inside a stream whose status is already sent; SDKs raise on it."""
        return b"data: " + self.body() + b"\n\n"

    def header_lines(self) -> bytes:
        lines = b""
        if self.retry_after_s is not None:
            wait_ms = max(1, math.ceil(self.retry_after_s * 1000))
            lines += b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (math.ceil(wait_ms / 1000), wait_ms)
        if self.should_retry is not None:
            lines += b"x-should-retry: %b\r\n" % (b"true" if self.should_retry else b"false")
        return lines


class InvalidRequest(ApiError):
    status = 400
    type = "invalid_request_error"
    default_code = "invalid_request"


class Unauthenticated(ApiError):
    """again: set where the same credentials may be known once this returns."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"
    again: Callable[[], Awaitable[None]] | None = None

    def header_lines(self) -> bytes:
        """As RFC 6750, section 3, has it for tokens."""
        reason = _CHALLENGES.get(self.code, b"")
        return b'www-authenticate: Bearer realm="headrace"%b\r\n' % reason + super().header_lines()


_CHALLENGES = {
    "invalid_token": b', error="invalid_token"',
    "expired_token": b', error="invalid_token", error_description="The token expired"',
}


class Forbidden(ApiError):
    status = 403
    type = "permission_error"
    default_code = "model_not_allowed"


class NotFound(ApiError):
    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class MethodNotAllowed(ApiError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow

    def header_lines(self) -> bytes:
        return f"allow: {self.allow}\r\n".encode()


class RequestTimeout(ApiError):
    status = 408
    type = "timeout_error"
    default_code = "request_timeout"


class Conflict(ApiError):
    status = 409
    type = "invalid_request_error"
    default_code = "conflict"


class BodyTooLarge(ApiError):
    status = 413
    type = "invalid_request_error"
    default_code = "body_too_large"


class UnsupportedMediaType(ApiError):
    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_media_type"


class HeadersTooLarge(ApiError):
    status = 431
    type = "invalid_request_error"
    default_code = "headers_too_large"


class NotCached(ApiError):
    """The caller wanted a kept answer or none. SDKs would try again at once, and in vain."""

    status = 504
    type = "invalid_request_error"
    default_code = "not_cached"

    def __init__(self, message: str) -> None:
        super().__init__(message, should_retry=False)


class RateLimited(ApiError):
    """more_lines: ready header lines, each ended by CRLF."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry_after_s: float = 1.0,
        should_retry: bool | None = None,
        more_lines: bytes = b"",
    ) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s, should_retry=should_retry)
        self._more_lines = more_lines

    def header_lines(self) -> bytes:
        return self._more_lines + super().header_lines()


class InsufficientQuota(RateLimited):
    """Money is spent. SDKs would try again at once, and in vain."""

    type = "insufficient_quota"
    default_code = "insufficient_quota"

    def __init__(self, message: str, *, retry_after_s: float = MAX_RETRY_AFTER_S, more_lines: bytes = b"") -> None:
        super().__init__(message, retry_after_s=retry_after_s, should_retry=False, more_lines=more_lines)


class UpstreamFailed(ApiError):
    status = 502
    type = "server_error"
    default_code = "upstream_error"
    log_level = logging.WARNING


class UpstreamTimeout(ApiError):
    status = 504
    type = "timeout_error"
    default_code = "upstream_timeout"
    log_level = logging.WARNING


class Overloaded(ApiError):
    status = 503
    type = "server_is_overloaded"
    default_code = "server_is_overloaded"

    def __init__(self, message: str, *, code: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s)


class NoHealthyBackend(Overloaded):
    type = "server_error"
    default_code = "no_healthy_backend"
    log_level = logging.WARNING


class LimitsUnavailable(ApiError):
    status = 503
    default_code = "limits_unavailable"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class InternalError(ApiError):
    log_level = logging.ERROR

    def __init__(self) -> None:
        super().__init__("Headrace failed on this request; its log has the reason under the request id.")


def from_status(status: int, message: str) -> ApiError:
    """The error for a status that a framework chose."""
    for kind in (InvalidRequest, Unauthenticated, Forbidden, NotFound, RequestTimeout, BodyTooLarge):
        if kind.status == status:
            return kind(message)
    if status == 405:
        return MethodNotAllowed(message, allow="")
    return InvalidRequest(message) if status < 500 else InternalError()
