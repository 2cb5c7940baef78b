"""What the server hands to the pipeline, and what the pipeline answers through."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import msgspec


class Request(msgspec.Struct):
    """One whole request. Header names are in lower case; `headers` has the last of repeated ones."""

    method: bytes
    target: bytes
    path: str
    headers: dict[bytes, bytes]
    raw_headers: list[tuple[bytes, bytes]]
    body: bytes
    client: str
    http_1_0: bool = False


class Flow(Protocol):
    """The source behind a sink, told when the client cannot keep up."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Sink(Protocol):
    """Where an answer goes: a client's connection, or a recorder."""

    extra_lines: bytes
    """Header lines for the head, whatever the answer: ready lines, each ended by CRLF."""
    on_lost: Callable[[], bool] | None
    """Asked when the client goes away: whether its call goes on all the same, for others. None: it is cancelled."""

    @property
    def started(self) -> bool:
        """Whether the head is out; after that only the body can say that something went wrong."""
        ...

    @property
    def status(self) -> int:
        """HTTP status sent; 0 before `start`."""
        ...

    @property
    def whole(self) -> bool:
        """Whether nothing may follow: the answer has ended, or there is nobody to read it."""
        ...

    @property
    def gone(self) -> str:
        """The error code for an answer that nobody waits for any more: why its client is gone."""
        ...

    @property
    def bytes_out(self) -> int:
        """Body bytes written."""
        ...

    @property
    def splice(self) -> Callable[[bytes], None] | None:
        """Sends whole HTTP/1.1 chunks as they are; None unless that is how this answer goes out."""
        ...

    def start(self, status: int, header_lines: bytes, length_bytes: int | None = None) -> None:
        """Send the head. `header_lines`: ready lines, each ended by CRLF. Without a length the body ends at `end`."""
        ...

    def write(self, payload: bytes, framed: bytes | None = None) -> None:
        """Send a piece of the body. `framed`: the same piece as one HTTP/1.1 chunk, if the caller has it."""
        ...

    def end(self) -> None:
        """The body is complete. Idempotent."""
        ...

    def bind(self, flow: Flow | None) -> None:
        """Who to slow down when the client reads too slowly; None: nobody any more."""
        ...


Handler = Callable[[Request, Sink], Coroutine[Any, Any, None]]
"""Answers one request. Cancelled when the client goes away."""
