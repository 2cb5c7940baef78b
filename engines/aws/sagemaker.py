"""Amazon SageMaker endpoints whose containers speak OpenAI's JSON: LMI (DJL), vLLM, TGI."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from engines.adapter import DONE, CannotSay, Exchange, StreamReader, Wire
from engines.aws.chat import read_body
from engines.aws.errors import refusal, stream_error
from engines.aws.eventstream import EventStreamDecoder
from engines.base import EngineDied, EngineProtocolError, EngineRequest, Operation

SERVICE = "sagemaker"
"""What requests are signed for."""
MAX_EVENT_BYTES = 8 * 1024 * 1024
_OPERATIONS = (Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS)
_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


class _ModelError(msgspec.Struct, rename="pascal"):
    """What the container answered, as the endpoint tells it."""

    original_status_code: int
    original_message: str = ""


class SageMakerTranslator:
    """Implements `Translator`. The request's `model` is `endpoint` or `endpoint/name that the container knows`."""

    def begin(self, request: EngineRequest) -> Exchange:
        if request.operation not in _OPERATIONS:
            message = f"The engine behind this model, a SageMaker endpoint, does not offer /{request.operation}."
            raise CannotSay(message, code="unsupported_operation")
        fields = read_body(request.body, dict[str, msgspec.Raw])
        model = msgspec.json.decode(fields.pop("model"), type=str)
        endpoint, _, inner = model.partition("/")
        if inner:
            fields["model"] = msgspec.Raw(msgspec.json.encode(inner))
        action = "invocations-response-stream" if request.stream else "invocations"
        return _Invocation(Wire(f"/endpoints/{quote(endpoint, safe='')}/{action}", msgspec.json.encode(fields)))


class _Invocation:
    """Implements `Exchange`."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def whole(self, body: bytes) -> bytes:
        return body

    def stream(self) -> StreamReader:
        return PayloadReader()

    def refusal(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, bytes]:
        """The container's own refusal, if it is one; else that of the endpoint."""
        try:
            told = msgspec.json.decode(body, type=_ModelError)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return refusal(status, headers, body)
        if told.original_status_code < 400:
            return refusal(status, headers, body)
        return told.original_status_code, told.original_message.encode()


class PayloadReader:
    """Implements `StreamReader`: the parts of a payload, cut anywhere, joined to whole events again.

    Containers stream server-sent events, or JSON lines (LMI), which become events.
    """

    def __init__(self) -> None:
        self._decoder = EventStreamDecoder()
        self._held = b""
        self._lines: bool | None = None
        """Whether the container streams JSON lines; None until its first byte."""
        self._failed = False

    def feed(self, payload: bytes) -> bytes:
        out = []
        for message in self._decoder.feed(payload):
            if message.kind != "event":
                self._failed = True
                out.append(stream_error(message))
                break
            if message.name == "PayloadPart":
                out.append(self._whole_events(message.payload))
        return b"".join(out)

    def finish(self) -> bytes:
        if self._failed:
            return b""
        self._decoder.finish()
        rest, self._held = self._held, b""
        if self._lines:
            return _events(rest) + DONE
        if rest.strip() and not rest.endswith((b"\n", b"\r")) and rest.replace(b" ", b"") != b"data:[DONE]":
            raise EngineDied(f"the endpoint's stream ended {len(rest)} bytes into an event")
        return rest + b"\n\n" if rest.strip() else b""

    def _whole_events(self, part: bytes) -> bytes:
        held = self._held + part
        if self._lines is None and held.strip():
            self._lines = held.lstrip().startswith(b"{")
        end = held.rfind(b"\n") + 1 if self._lines else _end_of_events(held)
        self._held = held[end:]
        if len(self._held) > MAX_EVENT_BYTES:
            raise EngineProtocolError(f"the endpoint sent an event of over {MAX_EVENT_BYTES} bytes")
        return _events(held[:end]) if self._lines else held[:end]


def _end_of_events(data: bytes) -> int:
    return max((at + len(mark) for mark in _ENDS if (at := data.rfind(mark)) >= 0), default=0)


def _events(lines: bytes) -> bytes:
    """JSON lines as events."""
    return b"".join(b"data: %b\n\n" % line.strip() for line in lines.split(b"\n") if line.strip())
