"""The listening socket that all workers share: bound by the supervisor, accepted from by each worker."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable

from gateway.process.board import Turn

logger = logging.getLogger(__name__)

BACKLOG = 4096
HOLD_S = 0.001
"""A worker that is ahead looks again after this long whether somebody took the connection."""
MAX_HOLD_S = 0.02
"""If nobody did by then, it takes it."""
FORGET_S = 0.2
"""And does not hold back again for this long."""
_PAUSE_S = 0.5
_HANDSHAKE_S = 10.0
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class CannotListen(Exception):
    """The address cannot be bound; the message names the setting."""


def bind(host: str, port: int, section: str = "server") -> socket.socket:
    """Listen on an address; port 0 takes a free one. `section`: of the configuration, for messages.

    Raises:
        CannotListen: it is taken, not allowed, or not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise CannotListen(f'{section}.host: "{host}" is not an address of this machine: {error.strerror}') from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit it: a token must not wait for the acknowledgement of the last one.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotListen(_why(error, host, port, section)) from None
    listener.setblocking(False)
    return listener


def _why(error: OSError, host: str, port: int, section: str) -> str:
    another = "--port or server.port" if section == "server" else f"{section}.port"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use by another program; choose another one with {another}"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this process has; choose one above 1023 with {another}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f'{section}.host: "{host}" is not an address of this machine'
    return f"cannot listen on {host} port {port} ({section}.host, {section}.port): {error.strerror}"


class Acceptor:
    """Takes connections from the shared socket, one per turn of the event loop, and leaves the other workers theirs.

    A server that takes all that wait has every connection after a burst, and with keep-alive all the work. One that is
    ahead of another waits for it, but not for long: the other may hang.

    open_count: how many connections this worker has.
    turn:       what tells whether it is ahead; None: it is alone.
    """

    def __init__(
        self,
        listener: socket.socket,
        connect: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
        open_count: Callable[[], int],
        turn: Turn | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._connect = connect
        self._tls = tls
        self._open_count = open_count
        self._turn = turn
        self._beginning: set[asyncio.Task[None]] = set()
        self._resuming: asyncio.TimerHandle | None = None
        self._held_since_s: float | None = None
        self._hold_again_s = 0.0
        listener.listen(BACKLOG)
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept)
        self.publish()

    @property
    def is_open(self) -> bool:
        return self._listener.fileno() >= 0

    def publish(self) -> bool:
        """Tell the other workers how many connections this one has. Returns whether it is ahead of one of them."""
        return self._turn is not None and self._turn.is_ahead(self._open_count() + len(self._beginning))

    def close(self) -> None:
        """Stop, after taking what waits already: if nobody else listens, the system would reset it. Idempotent."""
        if not self.is_open:
            return
        self._pause()
        if self._turn is not None:
            self._turn.leave()
        while self._take():
            pass
        self._listener.close()

    def _accept(self) -> None:
        if self.publish() and self._holds_back():
            self._pause()
            self._resuming = self._loop.call_later(HOLD_S, self._resume)
        else:
            self._held_since_s = None
            self._take()

    def _holds_back(self) -> bool:
        now_s = self._loop.time()
        if now_s < self._hold_again_s:
            return False
        if self._held_since_s is None or now_s - self._held_since_s > FORGET_S:
            self._held_since_s = now_s
        if now_s - self._held_since_s < MAX_HOLD_S:
            return True
        self._hold_again_s = now_s + FORGET_S
        return False

    def _take(self) -> bool:
        """Take one connection; whether there may be more."""
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno not in _OUT_OF_RESOURCES:
                return True  # that client is gone already
            logger.error("cannot accept connections: %s; raise the limit of open files (ulimit -n)", error.strerror)
            self._pause()
            self._resuming = self._loop.call_later(_PAUSE_S, self._resume)
            return False
        client.setblocking(False)
        task = self._loop.create_task(self._begin(client))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)
        return True

    async def _begin(self, client: socket.socket) -> None:
        limit_s = _HANDSHAKE_S if self._tls else None
        try:
            await self._loop.connect_accepted_socket(
                self._connect, client, ssl=self._tls, ssl_handshake_timeout=limit_s
            )
        except (OSError, EOFError) as error:
            client.close()
            logger.debug("a connection did not come about: %s", error)

    def _pause(self) -> None:
        self._loop.remove_reader(self._listener)
        if self._resuming is not None:
            self._resuming.cancel()

    def _resume(self) -> None:
        if self.is_open:
            self._loop.add_reader(self._listener, self._accept)
