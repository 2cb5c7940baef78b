"""AWS's errors, in an answer of their own or inside a stream, as status and body of OpenAI's."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from engines.adapter import error_body, event
from engines.aws.eventstream import Message

_STATUS = {
    "accessdenied": 403,
    "expiredtoken": 403,
    "incompletesignature": 403,
    "internaldependency": 502,
    "internalfailure": 500,
    "internalserver": 500,
    "internalstreamfailure": 500,
    "invalidsignature": 403,
    "missingauthenticationtoken": 403,
    "modelerror": 502,
    "modelnotready": 503,
    "modelstreamerror": 502,
    "modeltimeout": 504,
    "resourcenotfound": 404,
    "servicequotaexceeded": 503,
    "serviceunavailable": 503,
    "throttling": 429,
    "toomanyrequests": 429,
    "unrecognizedclient": 403,
    "validation": 400,
}
"""By the error's name in lower case, less `Exception` or `Error` at its end where the services disagree on it."""

_NO_ENDPOINT = re.compile(r"Endpoint \S+ of account \S+ not found")
"""SageMaker calls it a validation error."""

_TOO_LONG = re.compile(r"(?:input|prompt) is too long|exceed context limit", re.IGNORECASE)
"""How models on Bedrock say that a prompt does not fit."""


class _Body(msgspec.Struct):
    message: str | None = None
    other: str | None = msgspec.field(default=None, name="Message")
    type: str | None = msgspec.field(default=None, name="__type")
    original: str | None = msgspec.field(default=None, name="originalMessage")

    @property
    def text(self) -> str:
        return self.message or self.other or self.original or ""


def status_of(name: str, otherwise: int) -> int:
    """The status that an error's name stands for; `otherwise` if it is none that is known."""
    key = name.lower()
    for ending in ("", "exception", "error"):
        found = _STATUS.get(key.removesuffix(ending))
        if found is not None:
            return found
    return otherwise


def refusal(status: int, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, bytes]:
    """An answer that is not 200. The name in `x-amzn-errortype` tells more than its status."""
    told = _read(body)
    name = headers.get(b"x-amzn-errortype", b"").decode("latin-1").partition(":")[0]
    name = name or (told.type or "").rpartition("#")[2]
    message = told.text or name or f"status {status}"
    status = 404 if _NO_ENDPOINT.match(message) else status_of(name, status)
    if status == 404 and "model" not in message.lower():
        message = f"model not found: {message}"
    code = "context_length_exceeded" if status == 400 and _TOO_LONG.search(message) else None
    return status, error_body(message, kind=_kind(status), code=code)


def stream_error(message: Message) -> bytes:
    """An exception or error inside a stream, as the last event of OpenAI's; `code` is the status it stands for."""
    text = _read(message.payload).text or str(message.headers.get(":error-message", "")) or message.name
    status = status_of(message.name, 502)
    return event({"error": {"message": text, "type": _kind(status), "param": None, "code": status}})


def _kind(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def _read(body: bytes) -> _Body:
    try:
        return msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Body()
