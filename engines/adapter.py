"""Engines that do not speak OpenAI's protocol: one translator for each, and what they all share.

A translator says what to send and reads what comes; it knows no socket and no clock. `AdapterEngine` moves the bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

import msgspec

from engines.base import EngineError, EngineRequest, EngineResponse, EngineTimeout, Receiver, Timeouts
from engines.http import HEALTH_LIMITS, Dialect, Endpoint, HttpEngine
from engines.made import MadeResponse
from engines.outbox import Outbox


class Wire(msgspec.Struct, frozen=True):
    """A request in the peer's form. `path` begins with a slash and may have a query; the signer's headers are added."""

    path: str
    body: bytes
    headers: dict[str, str] = {}


class StreamReader(Protocol):
    """The state of one streamed answer."""

    def feed(self, payload: bytes) -> bytes:
        """Take the next piece, cut anywhere; give the OpenAI events (`data: …\\n\\n`) that it completes, if any.

        An error that the peer reports inside a stream becomes `data: {"error": {…}}\\n\\n`; nothing follows it.

        Raises:
            EngineProtocolError: the piece is not what the protocol allows.
        """
        ...

    def finish(self) -> bytes:
        """The peer's body is complete: what is still to be said, `data: [DONE]\\n\\n` among it.

        Raises:
            EngineDied: the answer is not complete.
        """
        ...


class Exchange(Protocol):
    """One call: what to send, and how to read the answer."""

    @property
    def wire(self) -> Wire: ...

    def whole(self, body: bytes) -> bytes:
        """A whole successful answer as OpenAI's JSON.

        Raises:
            EngineProtocolError: it is not what the protocol allows.
        """
        ...

    def stream(self) -> StreamReader: ...

    def refusal(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, bytes]:
        """An answer that is not 200, as OpenAI's status and error body: 429 and 503 mean full, 5xx broken."""
        ...


class Translator(Protocol):
    """One peer's protocol."""

    def begin(self, request: EngineRequest) -> Exchange:
        """What becomes of `request`.

        Raises:
            CannotSay: the peer has no words for it.
        """
        ...


class Signer(Protocol):
    """Lets the gateway in."""

    async def headers(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        """Headers to add for this request. May fetch a token; keeps it until it expires.

        Raises:
            EngineUnreachable: no credentials could be had.
        """
        ...


class CannotSay(Exception):
    """The request asks for what the peer does not offer. `param` is the field that does."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "unsupported_parameter") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class AdapterEngine(HttpEngine):
    """Implements `Engine` over a translator, with a signer if the peer wants more than fixed headers."""

    def __init__(
        self, endpoint: Endpoint, translator: Translator, signer: Signer | None = None, outbox: Outbox | None = None
    ) -> None:
        super().__init__(endpoint, Dialect(health_path="/"), outbox)
        self._translator = translator
        self._signer = signer
        self._origin = endpoint.url.rstrip("/")

    async def send(self, request: EngineRequest, timeouts: Timeouts) -> EngineResponse:
        try:
            exchange = self._translator.begin(request)
        except CannotSay as error:
            return MadeResponse(400, error_body(str(error), code=error.code, param=error.param))
        wire = exchange.wire
        headers = {"content-type": "application/json", **wire.headers}
        if self._signer is not None:
            headers.update(await self._signed(self._signer, wire, headers, timeouts.connect_s))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
        head = f"POST {self._base}{wire.path} HTTP/1.1\r\n{self._common}".encode("latin-1")
        length = b"content-length: %d\r\n\r\n" % len(wire.body)
        response = await self._send(head + lines + request.headers + length + wire.body, timeouts)
        return Translated(response, exchange, stream=request.stream)

    async def healthy(self) -> bool:
        """Whether anything but a server's error comes back: there is no path that every peer has."""
        return await self._answers_well(HEALTH_LIMITS, whole=False)

    def _is_well(self, status: int) -> bool:
        return status < 500

    async def _signed(
        self, signer: Signer, wire: Wire, headers: Mapping[str, str], limit_s: float
    ) -> Mapping[str, str]:
        try:
            async with asyncio.timeout(limit_s):
                return await signer.headers("POST", self._origin + wire.path, headers, wire.body)
        except TimeoutError as error:
            message = f"no credentials within connect timeout of {limit_s:g} s"
            raise EngineTimeout(message, phase="connect", limit_s=limit_s) from error


class Translated:
    """A peer's answer, read as OpenAI's. Implements `EngineResponse`, and `Receiver` towards the peer."""

    def __init__(self, response: EngineResponse, exchange: Exchange, *, stream: bool) -> None:
        self._response = response
        self._exchange = exchange
        self._reader = exchange.stream() if stream else None
        self._receiver: Receiver | None = None
        self.status = response.status
        streams = stream and response.status == 200
        kind = b"text/event-stream" if streams else b"application/json"
        self.headers = {**response.headers, b"content-type": kind}
        self._last_event_s = 0.0

    @property
    def last_data_s(self) -> float:
        """In a stream what counts is what it says: a peer's pings keep nobody's stream alive."""
        return self._response.last_data_s if self._reader is None else self._last_event_s

    async def read(self, limit_bytes: int) -> bytes:
        body = await self._response.read(limit_bytes)
        if self.status == 200:
            return self._exchange.whole(body)
        self.status, refusal = self._exchange.refusal(self.status, self.headers, body)
        return refusal

    def subscribe(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._response.subscribe(self)

    def pause(self) -> None:
        self._response.pause()

    def resume(self) -> None:
        self._response.resume()

    def abort(self) -> None:
        self._receiver = None
        self._response.abort()

    # Receiver

    def splice(self, chunk: bytes) -> bool:
        return False

    def on_data(self, payload: bytes, framed: bytes | None) -> None:
        assert self._reader is not None
        try:
            events = self._reader.feed(payload)
        except EngineError as error:
            self._fail(error)
            return
        if events and self._receiver is not None:
            self._last_event_s = self._response.last_data_s
            self._receiver.on_data(events, None)

    def on_end(self) -> None:
        assert self._reader is not None
        try:
            events = self._reader.finish()
        except EngineError as error:
            self._fail(error)
            return
        if events and self._receiver is not None:
            self._receiver.on_data(events, None)
        if self._receiver is not None:
            self._receiver.on_end()

    def on_error(self, error: EngineError) -> None:
        if self._receiver is not None:
            self._receiver.on_error(error)

    def _fail(self, error: EngineError) -> None:
        receiver, self._receiver = self._receiver, None
        self._response.abort()
        if receiver is not None:
            receiver.on_error(error.with_traceback(None))


def error_body(
    message: str, *, code: str | None = None, kind: str = "invalid_request_error", param: str | None = None
) -> bytes:
    """OpenAI's error, as JSON."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def event(data: object) -> bytes:
    """One OpenAI stream event."""
    return b"data: %b\n\n" % msgspec.json.encode(data)


DONE = b"data: [DONE]\n\n"


def now_s() -> int:
    """`created` of an answer whose peer does not date it, in Unix seconds."""
    return int(time.time())  # noqa: TID251 - for people, not for measuring
