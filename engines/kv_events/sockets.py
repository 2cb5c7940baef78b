"""ZeroMQ sockets in an event loop: a context that lives as long as any of them, and one subscription.

pyzmq has sockets for asyncio; a message costs them five times as much, and a gateway hears many engines.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import zmq

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
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._open = 0

    def __repr__(self) -> str:
        return f"<Sockets open={self._open}>"

    @contextlib.contextmanager
    def subscription(self, endpoint: str, topic: str) -> Iterator[Subscription]:
        """Live messages of a publisher. Connects for as long as it takes.

        Raises:
            MissingLibrary: pyzmq is not installed.
            ValueError: `endpoint` is not one.
        """
        zmq = _library()
        with self._opened(zmq.SUB, endpoint) as socket:
            monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
            try:
                socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
                _connect(socket, endpoint)
                bell = _Bell()
                with _read(socket, bell) as live, _read(monitor, bell) as events:
                    yield Subscription(live, events, bell, zmq.EVENT_DISCONNECTED)
            finally:
                socket.disable_monitor()
                monitor.close(linger=0)

    @contextlib.contextmanager
    def replay(self, endpoint: str, number: int) -> Iterator[Replay]:
        """All messages from `number` on that a publisher still has.

        Raises: as `subscription`.
        """
        with self._opened(_library().DEALER, endpoint) as socket:
            _connect(socket, endpoint)
            bell = _Bell()
            with _read(socket, bell) as port:
                socket.send_multipart((b"", number.to_bytes(_NUMBER_BYTES, "big")))
                yield Replay(port, bell)

    @contextlib.contextmanager
    def _opened(self, kind: int, endpoint: str) -> Iterator[zmq.Socket[bytes]]:
        zmq = _library()
        if self._context is None:
            self._context = zmq.Context()
        self._open += 1
        socket = self._context.socket(kind)
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


class Subscription:
    """One connection to a publisher, and what becomes of it. `lost`: the event that says that it ended."""

    def __init__(self, live: _Port, events: _Port, bell: _Bell, lost: int) -> None:
        self._live = live
        self._events = events
        self._bell = bell
        self._lost = lost
        self._next: list[bytes] | None = None

    async def connected(self, limit_s: float) -> None:
        """Returns when the connection stands.

        Raises:
            ConnectionLost: it does not within `limit_s`.
        """
        deadline_s = self._bell.deadline_s(limit_s)
        while (event := self._events.receive()) is None:
            self._look()
            if not await self._bell.wait(deadline_s):
                raise ConnectionLost
        self._check(event)

    async def receive(self, limit_s: float) -> list[bytes] | None:
        """The next message; None: there was none within `limit_s`.

        Raises:
            ConnectionLost: there are no more.
        """
        deadline_s = self._bell.deadline_s(limit_s)
        while not self._has_next():
            if not await self._bell.wait(deadline_s):
                return None
        message, self._next = self._next, None
        return message

    async def until(self, other: asyncio.Future[bool]) -> None:
        """Returns when `other` is done, or there is something to receive.

        Raises:
            ConnectionLost: there is nothing to receive any more.
        """
        other.add_done_callback(lambda _: self._bell.ring())
        while not other.done() and not self._has_next():
            await self._bell.wait(None)

    def _look(self) -> None:
        """A descriptor stays readable, and rings, until its socket was looked at."""
        if self._next is None:
            self._next = self._live.receive()

    def _has_next(self) -> bool:
        self._look()
        if self._next is None and (event := self._events.receive()) is not None:
            self._check(event)
        return self._next is not None

    def _check(self, event: list[bytes]) -> None:
        (number,) = struct.unpack_from("=H", event[0])
        if number == self._lost:
            raise ConnectionLost


class Replay:
    """What a publisher sends again."""

    def __init__(self, port: _Port, bell: _Bell) -> None:
        self._port = port
        self._bell = bell

    async def receive(self, limit_s: float) -> Message | None:
        """The next message, whose number is `END` if there are no more.

        Raises:
            TimeoutError: there is no answer within `limit_s`.
        """
        deadline_s = self._bell.deadline_s(limit_s)
        while (frames := self._port.receive()) is None:
            if not await self._bell.wait(deadline_s):
                raise TimeoutError
        return message_in(frames)


class _Bell:
    """Wakes the one who waits."""

    __slots__ = ("_loop", "_waiter")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[bool] | None = None

    def ring(self) -> None:
        self._wake(rung=True)

    def deadline_s(self, limit_s: float) -> float:
        return self._loop.time() + limit_s

    async def wait(self, deadline_s: float | None) -> bool:
        """Whether it rang before then. Look first whether there is anything: it does not ring again for that."""
        if deadline_s is not None and self._loop.time() >= deadline_s:
            return False
        waiter = self._waiter = self._loop.create_future()
        timer = None if deadline_s is None else self._loop.call_at(deadline_s, self._wake, False)
        try:
            rung: bool = await waiter
            return rung
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self, rung: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(rung)


class _Port:
    """The reading end of a socket. Its file descriptor says that something happened, not that there is a message."""

    __slots__ = ("_again", "_flags", "_receive")

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        zmq = _library()
        self._again: type[Exception] = zmq.Again
        self._flags: int = zmq.NOBLOCK
        self._receive = socket.recv_multipart

    def receive(self) -> list[bytes] | None:
        """A message, if one is there."""
        try:
            message: list[bytes] = self._receive(self._flags)
        except self._again:
            return None
        return message


@contextlib.contextmanager
def _read(socket: zmq.Socket[bytes], bell: _Bell) -> Iterator[_Port]:
    loop = asyncio.get_running_loop()
    descriptor = socket.fileno()
    loop.add_reader(descriptor, bell.ring)
    try:
        yield _Port(socket)
    finally:
        loop.remove_reader(descriptor)


def _connect(socket: zmq.Socket[bytes], endpoint: str) -> None:
    try:
        socket.connect(endpoint)
    except _library().ZMQError as error:
        raise ValueError(f"{endpoint!r} cannot be connected to: {error}") from error


def message_in(frames: list[bytes]) -> Message | None:
    """The number and the payload, which end every message, whatever stands before them; None: it is none."""
    if len(frames) < 2 or len(frames[-2]) != _NUMBER_BYTES:
        return None
    return int.from_bytes(frames[-2], "big"), frames[-1]


def _library() -> Any:
    try:
        import zmq
    except ImportError as error:
        raise MissingLibrary from error
    return zmq
