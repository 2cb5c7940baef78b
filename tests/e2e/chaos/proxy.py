"""A TCP proxy in front of one replica, which lets bytes pass until it is told to do something else with them."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from tests.e2e.chaos.ledger import FINISHED, Arrival, Ledger, request_id_in

HOST = "127.0.0.1"
BACKLOG_FILLERS = 4
_TAIL_BYTES = len(FINISHED) - 1


class Link:
    """One connection of the gateway and the one to the engine behind it."""

    def __init__(self, proxy: ChaosProxy, gateway: asyncio.StreamWriter) -> None:
        self.gateway = gateway
        self.engine: asyncio.StreamWriter | None = None
        self.arrival: Arrival | None = None
        self.room_bytes: int | None = None
        """What a behaviour has chosen to let pass of the present answer."""
        self._proxy = proxy
        self._requests = 0
        self._tail = b""

    def heard(self, data: bytes) -> bool:
        """Note bytes from the gateway. Returns: whether a request begins in them."""
        if not data.startswith((b"POST ", b"GET ")):
            return False
        request_id = request_id_in(data)
        self.arrival = Arrival(request_id, self._proxy.number, kept=self._requests > 0)
        if request_id:
            self._proxy.ledger.add(self.arrival)
        self.room_bytes = None
        self._tail = b""
        self._requests += 1
        return True

    def left(self, choose: Callable[[], int]) -> int:
        """Bytes of the present answer that may still pass, of as many as `choose` says once for each answer."""
        if self.room_bytes is None:
            self.room_bytes = choose()
        return self.room_bytes - (self.arrival.sent_bytes if self.arrival is not None else 0)

    async def answer(self, data: bytes) -> None:
        """Pass bytes on to the gateway."""
        if not data or self.gateway.is_closing():
            return
        self.gateway.write(data)
        await self.gateway.drain()
        if self.arrival is not None:
            self.arrival.sent_bytes += len(data)
            seen = self._tail + data
            self.arrival.finished = self.arrival.finished or FINISHED in seen
            self._tail = seen[-_TAIL_BYTES:]

    def reset(self) -> None:
        """Close without a goodbye: the gateway sees a reset."""
        sock: socket.socket | None = self.gateway.get_extra_info("socket")
        if sock is not None and not self.gateway.is_closing():
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.gateway.transport.abort()

    def close(self) -> None:
        self.gateway.transport.abort()
        if self.engine is not None:
            self.engine.transport.abort()


class Behaviour:
    """What a proxy does with the bytes of its links: here, pass them on. Others may be in force for some time."""

    async def on_request(self, link: Link, data: bytes) -> None:
        """Bytes from the gateway; a request begins in them."""
        await to_engine(link, data)

    async def on_answer(self, link: Link, data: bytes) -> None:
        """Bytes from the engine."""
        await link.answer(data)


async def to_engine(link: Link, data: bytes) -> None:
    assert link.engine is not None
    link.engine.write(data)
    await link.engine.drain()


class Silent(Behaviour):
    """A black hole: connections are taken, and nothing ever comes back."""

    async def on_request(self, link: Link, data: bytes) -> None:
        return

    async def on_answer(self, link: Link, data: bytes) -> None:
        return


class Resetting(Behaviour):
    """Each request is answered by a reset."""

    async def on_request(self, link: Link, data: bytes) -> None:
        link.reset()


class Cutting(Behaviour):
    """Each answer that is longer than some number of bytes, drawn from `sizes`, is cut off there: by a reset, or in
    good order."""

    def __init__(self, rng: random.Random, sizes: range, *, orderly: bool | None = None) -> None:
        self._rng = rng
        self._sizes = sizes
        self._orderly = orderly

    async def on_answer(self, link: Link, data: bytes) -> None:
        left = link.left(lambda: self._rng.choice(self._sizes))
        await link.answer(data[:left])
        if len(data) <= left:
            return
        orderly = self._rng.random() < 0.5 if self._orderly is None else self._orderly
        if orderly:
            link.close()
        else:
            link.reset()


class HalfClosing(Behaviour):
    """As `Cutting`, but there the replica only says that it has ended, and goes on listening."""

    def __init__(self, rng: random.Random, sizes: range) -> None:
        self._rng = rng
        self._sizes = sizes

    async def on_answer(self, link: Link, data: bytes) -> None:
        left = link.left(lambda: self._rng.choice(self._sizes))
        await link.answer(data[:left])
        if len(data) <= left:
            return
        if link.gateway.can_write_eof() and not link.gateway.is_closing():
            link.gateway.write_eof()
        await asyncio.Event().wait()


class Trickling(Behaviour):
    """A slow loris: heads and bodies come one byte at a time."""

    def __init__(self, rng: random.Random, pauses_s: tuple[float, ...]) -> None:
        self._rng = rng
        self._pauses_s = pauses_s
        self._pause_of: dict[str, float] = {}

    async def on_answer(self, link: Link, data: bytes) -> None:
        key = link.arrival.request_id if link.arrival is not None else ""
        pause_s = self._pause_of.setdefault(key, self._rng.choice(self._pauses_s))
        for at in range(len(data)):
            await link.answer(data[at : at + 1])
            await asyncio.sleep(pause_s)


class ChaosProxy:
    """Listens on one port for its whole life, in whatever condition. `engine_port` may change: engines come back
    elsewhere."""

    def __init__(self, number: int, ledger: Ledger, engine_port: int = 0) -> None:
        self.number = number
        self.ledger = ledger
        self.engine_port = engine_port
        self.behaviour = Behaviour()
        self._reserved = _bound(0)
        """Keeps the port from others while nobody listens there."""
        self.port: int = self._reserved.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._links: dict[Link, asyncio.Task[None]] = {}

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, sock=_bound(self.port), backlog=512)

    def refuse(self) -> None:
        """From now on connections are refused; those that stand go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def cut_all(self, *, reset: bool = False) -> None:
        """End all connections that stand."""
        for link in tuple(self._links):
            if reset:
                link.reset()
            link.close()

    @asynccontextmanager
    async def full_backlog(self) -> AsyncIterator[None]:
        """New connections are neither made nor refused."""
        self.refuse()
        sockets = [_bound(self.port)]
        try:
            sockets[0].listen(0)
            for _ in range(BACKLOG_FILLERS):
                sockets.append(socket.socket())
                sockets[-1].setblocking(False)
                sockets[-1].connect_ex((HOST, self.port))
            yield
        finally:
            for sock in sockets:
                sock.close()

    async def aclose(self) -> None:
        self.refuse()
        tasks = list(self._links.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._reserved.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = Link(self, writer)
        self._links[link] = task
        try:
            from_engine, link.engine = await asyncio.open_connection(HOST, self.engine_port)
            await _first_ended(self._up(link, reader), self._down(link, from_engine))
        except OSError:
            link.reset()
        except asyncio.CancelledError:
            pass  # only `aclose` cancels
        finally:
            link.close()
            del self._links[link]

    async def _up(self, link: Link, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(1 << 16):
            if link.heard(data):
                await self.behaviour.on_request(link, data)
            else:
                await to_engine(link, data)

    async def _down(self, link: Link, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(1 << 16):
            await self.behaviour.on_answer(link, data)
        # In good order: what is written goes out first.
        if not link.gateway.is_closing():
            link.gateway.close()
            with suppress(OSError):
                await link.gateway.wait_closed()


async def _first_ended(*works: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((HOST, port))
    sock.setblocking(False)
    return sock
