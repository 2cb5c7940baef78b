"""What a request carries of its trace."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Span:
    """traceparent: what to send to the engine; None: nothing. trace_id: for the access log; may be empty."""

    traceparent: bytes | None = None
    trace_id: str = ""
    otel: object = None
    """The SDK's span, for `Tracer.finish` alone."""


NO_SPAN: Final = Span()


def passed_on(traceparent: str) -> Span:
    """The client's own trace, unchanged; nothing if it is not what W3C Trace Context allows."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return Span(traceparent.encode(), match[1]) if match else NO_SPAN
