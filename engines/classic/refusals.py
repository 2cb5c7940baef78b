"""What model servers say when they do not answer, in the shapes that they have for it."""

from __future__ import annotations

import msgspec

MAX_MESSAGE_CHARS = 2000


class _Error(msgspec.Struct):
    """{"error": "text"} of Triton and TF Serving, {"error": {"message"}}, TorchServe's {"code", "type", "message"}
    and FastAPI's {"detail"}."""

    error: msgspec.Raw = msgspec.Raw(b"")
    type: msgspec.Raw = msgspec.Raw(b"")
    message: msgspec.Raw = msgspec.Raw(b"")
    detail: msgspec.Raw = msgspec.Raw(b"")


def message_in(body: bytes) -> str:
    """The text of an error; empty if there is none for people."""
    try:
        error = msgspec.json.decode(body, type=_Error)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = body[:MAX_MESSAGE_CHARS].decode(errors="replace").strip()
        return text if text.isprintable() and not text.startswith("<") else ""
    inner = bytes(error.error)
    if inner.startswith(b"{"):
        return message_in(inner)
    return _text(error.error) or _text(error.message) or _text(error.detail)


def type_in(body: bytes) -> str:
    """The `type` of an error; empty if it has none."""
    try:
        return _text(msgspec.json.decode(body, type=_Error).type)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _text(raw: msgspec.Raw) -> str:
    if not bytes(raw).startswith((b'"', b"[")):
        return ""
    value = msgspec.json.decode(raw)
    return (value if isinstance(value, str) else bytes(raw).decode(errors="replace"))[:MAX_MESSAGE_CHARS]
