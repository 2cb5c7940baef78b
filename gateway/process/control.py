"""The channel between the supervisor and a worker: small messages over a socket pair.

The configuration travels here with its secrets, and therefore neither in arguments nor in the environment nor on disk.
The end of the channel means that the other side is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from socket import socket
from typing import cast

import msgspec

from gateway.config import Config
from gateway.config.secrets import revealed
from gateway.config.version import UNVERSIONED

_LENGTH_BYTES = 4


class Configure(msgspec.Struct, frozen=True, tag=True):
    """To a new worker, first of all. `config`: from `pack_config`; `workers`: how many share the socket.

    engines_ready: False while the engines that the supervisor starts are loading; `EnginesReady` follows.
    version, applied_at: of the configuration; Unix time in seconds.
    feed: path of the office's socket; empty: there is no database, and no office.
    """

    worker_id: int
    workers: int
    config: bytes
    log_format: str
    engines_ready: bool = True
    version: str = str(UNVERSIONED)
    applied_at: float = 0.0
    feed: str = ""


class EnginesReady(msgspec.Struct, frozen=True, tag=True):
    """To a worker: the engines that the supervisor starts have loaded."""


class Drain(msgspec.Struct, frozen=True, tag=True):
    """To a worker: finish. See `Gateway.drain`."""

    limit_s: float
    grace_s: float
    replaced: bool = False


class Ask(msgspec.Struct, frozen=True, tag=True):
    """To a worker: send a `Numbers` with this id now. `pools`: with what it sees of the pools."""

    id: int
    pools: bool = False


class Exposed(msgspec.Struct, frozen=True, tag=True):
    """To a worker: the answer to `Scrape`."""

    id: int
    body: bytes
    content_type: str


class Gathered(msgspec.Struct, frozen=True, tag=True):
    """To a worker: the answer to `Gather`, one report of each worker, as JSON."""

    id: int
    reports: list[bytes]


class Round(msgspec.Struct, frozen=True, tag=True):
    """From a worker: what every worker's response cache is to be told. To a worker: take it, and answer."""

    id: int
    message: bytes


class RoundAnswered(msgspec.Struct, frozen=True, tag=True):
    """From a worker: its answer to `Round`. To a worker: those of all, its own included."""

    id: int
    answers: list[bytes]


class Reopen(msgspec.Struct, frozen=True, tag=True):
    """To a worker: open the log files anew."""


class Started(msgspec.Struct, frozen=True, tag=True):
    """From a worker: it accepts connections."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """From a worker: it cannot start, and ends."""

    message: str


class Numbers(msgspec.Struct, frozen=True, tag=True):
    """From a worker: its metrics, and its pools as JSON if `Ask` wanted them. `id` is that of `Ask`, or 0 where nobody
    asked."""

    id: int
    snapshot: bytes
    pools: bytes = b""


class Scrape(msgspec.Struct, frozen=True, tag=True):
    """From a worker: somebody wants the metrics of all workers, in the format that `accept` asks for."""

    id: int
    accept: str


class Gather(msgspec.Struct, frozen=True, tag=True):
    """From a worker: somebody wants to know what all workers see of the pools."""

    id: int


class Versioned(msgspec.Struct, frozen=True, tag=True):
    """To the office: another version of the configuration serves, which changes nothing for the office itself."""

    version: str


class Inquire(msgspec.Struct, frozen=True, tag=True):
    """From the office: a `gateway.config.live.Question` about the configuration, as JSON."""

    id: int
    question: bytes


class Informed(msgspec.Struct, frozen=True, tag=True):
    """To the office: the answer to `Inquire`, as JSON."""

    id: int
    answer: bytes


Message = (
    Configure
    | EnginesReady
    | Drain
    | Ask
    | Exposed
    | Gathered
    | Round
    | RoundAnswered
    | Reopen
    | Started
    | Refused
    | Numbers
    | Scrape
    | Gather
    | Versioned
    | Inquire
    | Informed
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def pack_config(config: Config) -> bytes:
    """The configuration with its secrets, for the channel alone."""
    return msgspec.msgpack.encode(config.model_dump(exclude_unset=True), enc_hook=revealed)


def unpack_config(packed: bytes) -> Config:
    return Config.model_validate(msgspec.msgpack.decode(packed))


class Channel(asyncio.Protocol):
    """One end. Callbacks run in the event loop and must not block.

    congested: the other side does not read; who sends what may be left out should wait.
    ended:     set when the other side is gone, or this one was closed; all messages have been taken by then.
    """

    def __init__(self, on_message: Callable[[Message], None], on_end: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._received = bytearray()
        self._transport = cast(asyncio.Transport, None)
        self.congested = False
        self.ended = asyncio.Event()

    @classmethod
    async def open(
        cls, end: socket, on_message: Callable[[Message], None], on_end: Callable[[], None] = lambda: None
    ) -> Channel:
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(lambda: cls(on_message, on_end), sock=end)
        return channel

    def send(self, message: Message) -> None:
        """Queue a message; nothing happens if the other side is gone."""
        if not self._transport.is_closing():
            packed = _encoder.encode(message)
            self._transport.write(len(packed).to_bytes(_LENGTH_BYTES, "big") + packed)

    async def close(self, limit_s: float = 1.0) -> None:
        """Send what waits, for at most `limit_s`, and end the channel."""
        self._transport.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), limit_s)
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        while len(received) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(received[:_LENGTH_BYTES], "big")
            if len(received) < end:
                return
            packed = bytes(received[_LENGTH_BYTES:end])
            del received[:end]
            self._on_message(_decoder.decode(packed))

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()
        self._on_end()

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
