"""What an engine's answer or failure means for the caller (A09) and for the engine's standing.

The one place where engines' statuses, bodies and exceptions become errors of ours.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import msgspec

from engines.base import EngineDied, EngineError, EngineTimeout, EngineUnreachable, Operation
from gateway.errors import (
    ApiError,
    BodyTooLarge,
    Conflict,
    InvalidRequest,
    NoHealthyBackend,
    Overloaded,
    RateLimited,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.record import Usage
from gateway.sse import UsageView

BYTES_PER_TOKEN = 4
"""Of text in most languages, JSON around it included; for estimates."""
MAX_MESSAGE_CHARS = 2000
_LET_IN_BY: Mapping[str, str] = {
    "azure": "`engine.api_key` or `engine.azure`",
    "bedrock": "`engine.aws` or `engine.api_key`",
    "sagemaker": "`engine.aws`",
    "vertex": "`engine.google.credentials_file`",
}
"""The settings with the gateway's credentials, by kind of engine; all others have `engine.api_key`."""
_CONTEXT_LENGTH = re.compile(
    r"maximum context length|context_length_exceeded|exceeds? the (?:available )?context|context (?:window|size)"
    r"|max_model_len|longer than the maximum model length",
    re.IGNORECASE,
)
_POLICY = re.compile(r"content_filter|content_policy|ResponsibleAIPolicy|content management policy", re.IGNORECASE)


class Reason(enum.StrEnum):
    """Why there is no answer: what `fallbacks` are chosen by."""

    ERROR = "error"
    OVERLOADED = "overloaded"
    CONTEXT_LENGTH = "context_length"
    POLICY = "policy"
    REQUEST = "request"
    """The request itself is at fault: nobody else would say otherwise."""


class Outcome(enum.StrEnum):
    """What an attempt says about the replica that it went to."""

    FINE = "fine"
    """It works; if it refused, then no other replica would say otherwise (R05)."""
    FULL = "full"
    """Busy, not broken: another replica may have room."""
    BROKEN = "broken"
    """The breaker counts it, and another replica may do better."""
    ABANDONED = "abandoned"
    """Nothing: the client went away first."""


class Rejection(Exception):
    """An engine's answer that is no answer to the caller's question.

    wait_s: how long the engine asked to be left alone; 0.0 if it did not.
    """

    def __init__(self, error: ApiError, outcome: Outcome, wait_s: float = 0.0) -> None:
        super().__init__(error.message)
        self.error = error
        self.outcome = outcome
        self.wait_s = wait_s

    @property
    def reason(self) -> Reason:
        if self.outcome is Outcome.FULL:
            return Reason.OVERLOADED
        if self.outcome is not Outcome.FINE:
            return Reason.ERROR
        if self.error.code == "context_length_exceeded":
            return Reason.CONTEXT_LENGTH
        refused = isinstance(self.error, InvalidRequest) and _POLICY.search(f"{self.error.code} {self.error.message}")
        return Reason.POLICY if refused else Reason.REQUEST


class _ErrorBody(msgspec.Struct):
    message: msgspec.Raw = msgspec.Raw(b"")
    code: msgspec.Raw = msgspec.Raw(b"")
    param: msgspec.Raw = msgspec.Raw(b"")
    type: msgspec.Raw = msgspec.Raw(b"")


class _Failure(msgspec.Struct):
    """The shapes seen: {"error": {...}}, {"error": "text"}, vLLM's older flat one, FastAPI's {"detail": ...}."""

    error: msgspec.Raw = msgspec.Raw(b"")
    message: msgspec.Raw = msgspec.Raw(b"")
    code: msgspec.Raw = msgspec.Raw(b"")
    param: msgspec.Raw = msgspec.Raw(b"")
    detail: msgspec.Raw = msgspec.Raw(b"")


class _Told(msgspec.Struct, frozen=True):
    """What an error body says, as far as it does; `status` is the number that some engines give as the code."""

    message: str = ""
    code: str = ""
    param: str | None = None
    status: int = 0


class _Whole(msgspec.Struct):
    error: msgspec.Raw = msgspec.Raw(b"")
    choices: list[_WholeChoice] | None = None
    data: list[msgspec.Raw] | None = None
    usage: UsageView | None = None


class _WholeChoice(msgspec.Struct):
    message: msgspec.Raw = msgspec.Raw(b"")
    text: msgspec.Raw = msgspec.Raw(b"")
    finish_reason: str | None = None


_decode_failure = msgspec.json.Decoder(_Failure).decode
_decode_error_body = msgspec.json.Decoder(_ErrorBody).decode
_decode_whole = msgspec.json.Decoder(_Whole).decode
_ABSENT = (b"", b"null")
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_CHAT, _COMPLETIONS, _EMBEDDINGS = Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS


def check_whole(operation: Operation, body: bytes) -> tuple[Usage, str]:
    """Usage and finish reason of a whole successful answer; without usage its completion tokens are estimated.

    Raises:
        Rejection: the body is an error, or no answer to `operation`, in spite of its 2xx.
    """
    try:
        answer = _decode_whole(body)
    except _MALFORMED as error:
        failed = UpstreamFailed(
            "The engine's answer is not valid JSON of the expected shape.", code="upstream_bad_body"
        )
        raise Rejection(failed, Outcome.BROKEN) from error
    if bytes(answer.error) not in _ABSENT:
        raise from_stream_error(operation, body)
    if not _answers(operation, answer):
        failed = UpstreamFailed("The engine answered without a result.", code="upstream_empty_answer")
        raise Rejection(failed, Outcome.BROKEN)
    if answer.usage is not None:
        usage = answer.usage.usage()
    else:
        said_bytes = sum(len(bytes(choice.message)) + len(bytes(choice.text)) for choice in answer.choices or ())
        usage = Usage(completion_tokens=said_bytes // BYTES_PER_TOKEN, estimated=True)
    reason = answer.choices[0].finish_reason if answer.choices else None
    return usage, reason or ""


def _answers(operation: Operation, answer: _Whole) -> bool:
    if operation is _CHAT or operation is _COMPLETIONS:
        if not answer.choices:
            return False
        for choice in answer.choices:
            if bytes(choice.message if operation is _CHAT else choice.text) in _ABSENT:
                return False
        return True
    return operation is not _EMBEDDINGS or answer.data is not None


def rejection(
    operation: Operation, status: int, headers: dict[bytes, bytes], body: bytes, kind: str = "openai"
) -> Rejection:
    """What an answer that is not 2xx, or is an error in a 2xx, means. `kind`: of the engine."""
    failure = _read_failure(body)
    message = failure.message
    said = f": {message}" if message else "."
    if status in (400, 422):
        return Rejection(_bad_request(failure), Outcome.FINE)
    if status == 413:
        return Rejection(BodyTooLarge(f"The engine refused the request as too large{said}"), Outcome.FINE)
    if status == 409:
        return Rejection(Conflict(f"The engine reports a conflict{said}"), Outcome.FINE)
    if status == 501 or (status in (404, 405) and "model" not in message.lower()):
        error: ApiError = InvalidRequest(
            f"The engine behind this model does not offer /{operation}{said}", code="unsupported_operation"
        )
        return Rejection(error, Outcome.FINE)
    if status in (429, 503, 529):
        return _full(status, headers, said)
    return _engine_fault(status, said, kind)


def _full(status: int, headers: dict[bytes, bytes], said: str) -> Rejection:
    told_s = _retry_after_s(headers)
    wait_s = 1.0 if told_s is None else told_s
    if status == 429:
        error: ApiError = RateLimited(f"The engine is over its rate limit{said}", retry_after_s=wait_s)
    else:
        error = Overloaded(f"The engine is full{said}", retry_after_s=wait_s)
    return Rejection(error, Outcome.FULL, told_s or 0.0)


def _engine_fault(status: int, said: str, kind: str) -> Rejection:
    if status in (401, 402, 403):
        settings = _LET_IN_BY.get(kind, "`engine.api_key`")
        text = f"The engine refused the gateway's credentials; check {settings} of the pool."
        return Rejection(UpstreamFailed(text, code="upstream_auth"), Outcome.BROKEN)
    if status in (404, 405):
        text = f"The engine does not know the model that the gateway asked for; check `model` of the variant{said}"
        return Rejection(UpstreamFailed(text, code="upstream_model_not_found"), Outcome.BROKEN)
    if status in (408, 504):
        return Rejection(UpstreamTimeout(f"The engine timed out{said}"), Outcome.BROKEN)
    if 400 < status < 500:
        return Rejection(InvalidRequest(f"The engine refused the request (status {status}){said}"), Outcome.FINE)
    return Rejection(UpstreamFailed(f"The engine failed (status {status}){said}"), Outcome.BROKEN)


def _bad_request(failure: _Told) -> InvalidRequest:
    message, code, param = failure.message or "The engine refused the request.", failure.code, failure.param
    if _CONTEXT_LENGTH.search(message) or _CONTEXT_LENGTH.search(code):
        return InvalidRequest(message, code="context_length_exceeded", param=param or "messages")
    return InvalidRequest(message, code=code or None, param=param)


def from_stream_error(operation: Operation, data: bytes) -> Rejection:
    """What an error in a stream or in a 200 means; engines put the status they would have sent into `code`."""
    return rejection(operation, _read_failure(data).status or 502, {}, data)


def from_engine_error(error: EngineError) -> ApiError:
    if isinstance(error, EngineTimeout):
        return UpstreamTimeout(f"The engine gave {error}.", code=f"{error.phase}_timeout")
    if isinstance(error, EngineUnreachable):
        return NoHealthyBackend("No engine of this deployment can be reached.")
    if isinstance(error, EngineDied):
        return UpstreamFailed("The engine died before its answer was complete.", code="upstream_died")
    return UpstreamFailed("The engine's answer broke its protocol.", code="upstream_protocol_error")


def _retry_after_s(headers: dict[bytes, bytes]) -> float | None:
    """What an engine said of waiting; None: nothing that can be understood."""
    for name, per_second in ((b"retry-after-ms", 1000.0), (b"retry-after", 1.0)):
        try:
            wait_s = float(headers[name]) / per_second
        except (KeyError, ValueError):
            continue
        if 0 <= wait_s < 1e9:
            return wait_s
    return _seconds_until(headers.get(b"retry-after", b""), headers.get(b"date", b""))


def _seconds_until(then: bytes, now: bytes) -> float | None:
    """From one HTTP date to a later one, both by the engine's clock."""
    if not then or not now:
        return None
    try:
        wait = parsedate_to_datetime(then.decode("latin-1")) - parsedate_to_datetime(now.decode("latin-1"))
    except (ValueError, TypeError):
        return None
    wait_s = wait.total_seconds()
    return wait_s if wait_s > 0 else None


def _read_failure(body: bytes) -> _Told:
    """What an error body of whatever shape says."""
    try:
        failure = _decode_failure(body)
    except _MALFORMED:
        return _Told(_text(body))
    try:
        inner = _decode_error_body(failure.error)
    except _MALFORMED:
        message = _string(failure.error) or _string(failure.message) or _string(failure.detail)
        return _told(message, failure.code, failure.param)
    told = _told(_string(inner.message), inner.code, inner.param)
    # llama.cpp keeps the status in `code` and what programs want in `type`.
    kind = _string(inner.type)
    return msgspec.structs.replace(told, code=kind) if kind == "exceed_context_size_error" else told


def _told(message: str, code: msgspec.Raw, param: msgspec.Raw) -> _Told:
    text = _string(code)
    if not text.isdecimal():
        return _Told(message, text, _string(param) or None)
    status = int(text) if len(text) == 3 and "400" <= text < "600" else 0
    return _Told(message, "", _string(param) or None, status)


def _string(raw: msgspec.Raw) -> str:
    text = bytes(raw)
    if text in _ABSENT:
        return ""
    try:
        value = msgspec.json.decode(text)
    except _MALFORMED:
        return ""
    return value[:MAX_MESSAGE_CHARS] if isinstance(value, str) else text.decode(errors="replace")[:MAX_MESSAGE_CHARS]


def _text(body: bytes) -> str:
    """A plain-text error; a page of HTML says nothing to an API's caller."""
    text = body[:MAX_MESSAGE_CHARS].decode(errors="replace").strip()
    return "" if text.startswith("<") or not text.isprintable() else text
