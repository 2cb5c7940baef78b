"""ZeroMQ sockets in one event loop: a context that lives as long as any of them, and one subscription."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import zmq.asyncio

HWM = 1000
"""Messages that wait in memory for one socket. More are lost at the engine's end, and asked for again."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
HEARTBEAT_MS, HEARTBEAT_LOST_MS = 5_000, 15_000
RECONNECT_MS = 100
_NUMBER_BYTES = 8
END = (1 << 64) - 1
"""-1: the number of the message that ends a replay."""

Message = tuple[int, bytes]
"""Number and payload."""


class MissingLibrary(ImportError):
    """pyzmq is not installed."""

    def __init__(self) -> None:
        super().__init__('KV events need a library that is not installed: pip install "headrace[kv-events]"')


class ConnectionLost(Exception):
    """The publisher is not connected any more."""


class Sockets:
    """Opens sockets. They share one context, and with it one thread; it ends with the last of them."""

    def __init__(self) -> None:
        self._context: zmq.asyncio.Context | None = None
        self._open = 0

    def __repr__(self) -> str:
        return f"<Sockets open={self._open}>"

    @contextlib.contextmanager
    def opened(self, kind: str, endpoint: str) -> Iterator[zmq.asyncio.Socket]:
        """A socket of the `kind` SUB or DEALER, which connects to `endpoint` for as long as it takes.

        Raises:
            MissingLibrary: pyzmq is not installed.
            ValueError: `endpoint` is not one.
        """
        zmq = _library()
        if self._context is None:
            self._context = zmq.asyncio.Context()
        self._open += 1
        socket = self._context.socket(getattr(zmq, kind))
        try:
            for option, value in (
                (zmq.LINGER, 0),
                (zmq.RCVHWM, HWM),
                (zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES),
                (zmq.RECONNECT_IVL, RECONNECT_MS),
                (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
                (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_LOST_MS),
                (zmq.IPV6, int("[" in endpoint)),
            ):
                socket.setsockopt(option, value)
            yield socket
        finally:
            socket.close()
            self._open -= 1
            if not self._open:
                self._context.term()
                self._context = None

    def subscription(self, endpoint: str, topic: str) -> contextlib.AbstractContextManager[Subscription]:
        """Live messages of a publisher."""
        return _subscription(self, endpoint, topic)


@contextlib.contextmanager
def _subscription(sockets: Sockets, endpoint: str, topic: str) -> Iterator[Subscription]:
    zmq = _library()
    with sockets.opened("SUB", endpoint) as socket:
        monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        try:
            socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
            connect(socket, endpoint)
            yield Subscription(socket, monitor, zmq.EVENT_DISCONNECTED)
        finally:
            socket.disable_monitor()
            monitor.close(linger=0)


class Subscription:
    """One connection to a publisher, and what becomes of it. `lost`: the event that says that it ended."""

    def __init__(self, socket: zmq.asyncio.Socket, monitor: zmq.asyncio.Socket, lost: int) -> None:
        self._socket = socket
        self._monitor = monitor
        self._lost = lost
        self._message: asyncio.Future[list[bytes]] | None = None
        self._event: asyncio.Future[list[bytes]] | None = None

    async def connected(self, limit_s: float) -> None:
        """Returns when the connection stands.

        Raises:
            ConnectionLost: it does not within `limit_s`.
        """
        try:
            async with asyncio.timeout(limit_s):
                self._check(await self._monitor.recv_multipart())
        except TimeoutError:
            raise ConnectionLost from None

    async def receive(self, limit_s: float) -> list[bytes] | None:
        """The next message; None: there was none within `limit_s`.

        Raises:
            ConnectionLost: there are no more.
        """
        message, event = self._awaited()
        if not message.done():
            await asyncio.wait((message, event), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if message.done():
            self._message = None
            return message.result()
        if event.done():
            self._event = None
            self._check(event.result())
        return None

    async def until(self, other: asyncio.Future[bool]) -> None:
        """Returns when `other` is done, or there is something to receive."""
        await asyncio.wait((*self._awaited(), other), return_when=asyncio.FIRST_COMPLETED)

    def _awaited(self) -> tuple[asyncio.Future[list[bytes]], asyncio.Future[list[bytes]]]:
        message = self._message = self._message or _future(self._socket)
        event = self._event = self._event or _future(self._monitor)
        return message, event

    def _check(self, event: list[bytes]) -> None:
        (number,) = struct.unpack_from("=H", event[0])
        if number == self._lost:
            raise ConnectionLost


def _future(socket: zmq.asyncio.Socket) -> asyncio.Future[list[bytes]]:
    return cast("asyncio.Future[list[bytes]]", socket.recv_multipart())


def connect(socket: zmq.asyncio.Socket, endpoint: str) -> None:
    """Raises ValueError if `endpoint` is not one."""
    try:
        socket.connect(endpoint)
    except _library().ZMQError as error:
        raise ValueError(f"{endpoint!r} cannot be connected to: {error}") from error


def message_in(frames: list[bytes]) -> Message | None:
    """The number and the payload, which end every message, whatever stands before them; None: it is none."""
    if len(frames) < 2 or len(frames[-2]) != _NUMBER_BYTES:
        return None
    return int.from_bytes(frames[-2], "big"), frames[-1]


def request_from(number: int) -> list[bytes]:
    """What asks a replay socket for all messages from `number` on."""
    return [b"", number.to_bytes(_NUMBER_BYTES, "big")]


def _library() -> Any:
    try:
        import zmq.asyncio
    except ImportError as error:
        raise MissingLibrary from error
    return zmq
