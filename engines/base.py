"""The seam to whatever runs a model: `Engine`, and what goes over it."""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec


class Operation(enum.StrEnum):
    """What a caller may ask of a model; the value is the OpenAI path below the base URL."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"


class Timeouts(msgspec.Struct, frozen=True):
    """Limits of one attempt, in seconds from the moment each phase begins; None: no limit.

    connect_s: until the TCP (and TLS) connection stands.
    ttft_s:    from sending the request until the first byte of the answer's body.
    idle_s:    between two pieces of the body.
    total_s:   from sending the request to its last byte.
    """

    connect_s: float = 5.0
    ttft_s: float | None = None
    idle_s: float | None = None
    total_s: float | None = 600.0

    @property
    def shortest_s(self) -> float | None:
        """The shortest limit after the connection stands."""
        shortest = self.total_s
        for limit_s in (self.ttft_s, self.idle_s):
            if limit_s is not None and (shortest is None or limit_s < shortest):
                shortest = limit_s
        return shortest


class EngineRequest(msgspec.Struct, frozen=True):
    """One request in the OpenAI wire format.

    body: the JSON bytes that the engine is to see, model name and `stream_options` already rewritten.
    headers: allow-listed extra headers as ready lines, each ended by CRLF.
    """

    operation: Operation
    body: bytes
    stream: bool = False
    headers: bytes = b""


class Receiver(Protocol):
    """Takes the body of an answer, piece by piece, in plain callbacks: no coroutine stands on the token path."""

    def on_data(self, payload: bytes, framed: bytes | None) -> None:
        """A piece of the body. `framed` is the same piece as one whole HTTP/1.1 chunk, if it came as one."""
        ...

    def splice(self, chunk: bytes) -> bool:
        """One read that has the length and the head of one whole HTTP/1.1 chunk. True: it ended as a chunk does, and
        was passed on as it is; False: it comes again through `on_data`."""
        ...

    def on_end(self) -> None:
        """The body is complete."""
        ...

    def on_error(self, error: EngineError) -> None:
        """The body broke off; nothing follows."""
        ...


class EngineResponse(Protocol):
    """An answer whose head has arrived. Exactly one of `read` or `subscribe` takes the body."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> dict[bytes, bytes]:
        """Names in lower case; of a repeated header the last one."""
        ...

    @property
    def last_data_s(self) -> float:
        """Instant (monotonic seconds) at which the latest piece of the body arrived; 0.0 while there is none."""
        ...

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body.

        Raises:
            EngineError: the body broke off, or is larger than `limit_bytes`.
        """
        ...

    def subscribe(self, receiver: Receiver) -> None:
        """Give the body to `receiver`, beginning with what has already arrived."""
        ...

    def pause(self) -> None:
        """Stop reading from the engine (back-pressure); `resume` goes on."""
        ...

    def resume(self) -> None: ...

    def abort(self) -> None:
        """Close the connection unless the body is complete. Engines take this as a cancel. Idempotent."""
        ...


class Engine(Protocol):
    """One replica of a model behind its wire protocol."""

    @property
    def name(self) -> str: ...

    async def send(self, request: EngineRequest, timeouts: Timeouts) -> EngineResponse:
        """Send the request and wait for the head of the answer. Cancelling it closes the connection.

        Raises:
            EngineError: no head arrived; `error.sent` says whether the engine may have seen the request.
        """
        ...

    async def healthy(self) -> bool:
        """Whether the engine answers its health path. Never raises; calls no model."""
        ...

    async def aclose(self) -> None:
        """Close idle connections; requests in flight go on to their end."""
        ...


class EngineError(Exception):
    """The engine, or the way to it, was wrong.

    EngineError
    ├── EngineUnreachable    no connection: refused, unresolved, TLS failure
    ├── EngineTimeout        `phase` says which limit of `Timeouts` passed
    ├── EngineDied           the connection broke before the answer was complete
    └── EngineProtocolError  the answer is not what its protocol allows
    """

    retryable = True

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class EngineUnreachable(EngineError):
    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class EngineTimeout(EngineError):
    def __init__(self, message: str, *, phase: str, limit_s: float) -> None:
        super().__init__(message, sent=phase != "connect")
        self.phase = phase
        self.limit_s = limit_s


class EngineDied(EngineError):
    pass


class EngineProtocolError(EngineError):
    pass
