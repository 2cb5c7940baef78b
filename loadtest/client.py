"""Closed-loop and open-loop load: who sends when, on which connection."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from loadtest.asks import Ask
from loadtest.connection import Connection
from loadtest.results import Failure, Outcome, Results

_SMALL_BUFFER_BYTES = 4096
_CONNECT_S = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where a load goes.

    url:        base URL, with or without `/v1`, or the whole URL of an endpoint.
    timeout_s:  for each request, from sending to its end.
    keep_alive: whether a connection carries one request after the other.
    """

    url: str
    path: str = "/v1/chat/completions"
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 600.0
    keep_alive: bool = True

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or (443 if self.tls else 80)

    @property
    def tls(self) -> bool:
        return self.url.startswith("https:")

    def head(self, key: str | None = None) -> bytes:
        """Request line and headers, up to the value of content-length; `key` in place of the target's."""
        parts = urlsplit(self.url)
        given = parts.path.rstrip("/").removesuffix("/v1")
        path = given if given.endswith(("/completions", "/embeddings")) else given + self.path
        lines = {"host": parts.netloc, "content-type": "application/json"}
        if key := key or self.key:
            lines["authorization"] = f"Bearer {key}"
        if not self.keep_alive:
            lines["connection"] = "close"
        head = "".join(f"{name}: {value}\r\n" for name, value in (lines | dict(self.headers)).items())
        return f"POST {path} HTTP/1.1\r\n{head}content-length: ".encode("latin-1")


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When the requests of an open loop are due: `rate` a second, evenly or as a Poisson process."""

    rate: float
    kind: Literal["poisson", "constant"] = "poisson"
    seed: int = 0

    def times_s(self) -> Iterator[float]:
        """Seconds from the beginning, rising without end."""
        rng = random.Random(self.seed)  # noqa: S311 - arrivals, not secrets
        at_s = 0.0
        while True:
            at_s += rng.expovariate(self.rate) if self.kind == "poisson" else 1.0 / self.rate
            yield at_s


class Load:
    """One load on one target. Use it once: `closed` or `open`; `results` fills as requests end.

    asks: what is asked, in this order. The load ends when they do.
    """

    def __init__(self, target: Target, asks: Iterator[Ask]) -> None:
        self.results = Results()
        self._target = target
        self._asks = asks
        self._head = target.head()
        self._tls = ssl.create_default_context() if target.tls else None
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._ended = asyncio.Event()
        """Set whenever a request has ended."""
        self._closed_loop = False

    @property
    def under_way(self) -> int:
        """Requests that have not ended."""
        return self._under_way

    async def closed(self, concurrency: int, duration_s: float | None = None) -> Results:
        """Keep `concurrency` requests under way until the asks are used up, or for `duration_s`."""
        self._closed_loop = True
        self._begin()
        stop = None if duration_s is None else asyncio.get_running_loop().call_later(duration_s, self._stop_asking)
        for _ in range(concurrency):
            self._start_next(time.monotonic())
        try:
            return await self._finish()
        finally:
            if stop is not None:
                stop.cancel()

    async def open(self, arrivals: Arrivals, duration_s: float | None = None, most: int | None = None) -> Results:
        """Start each request when it is due, for `duration_s` or until no ask is left.

        most: with so many under way the next one waits, and is sent late; None: however many there are.
        """
        self._begin()
        for at_s in arrivals.times_s():
            due_s = self.results.began_s + at_s
            if duration_s is not None and at_s > duration_s:
                break
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            while most is not None and self._under_way >= most:
                self._ended.clear()
                await self._ended.wait()
            if not self._start_next(due_s):
                break
        return await self._finish()

    def _begin(self) -> None:
        self.results.began_s = time.monotonic()

    def _stop_asking(self) -> None:
        self._asks = iter(())

    async def _finish(self) -> Results:
        try:
            while self._under_way:
                self._ended.clear()
                await self._ended.wait()
            self.results.wall_s = time.monotonic() - self.results.began_s
        finally:
            for task in self._connecting:
                task.cancel()
            for connection in list(self._open):
                connection.close()
            await asyncio.sleep(0)
        return self.results

    def _start_next(self, due_s: float) -> bool:
        """False: there is nothing left to ask."""
        ask = next(self._asks, None)
        if ask is None:
            return False
        self._under_way += 1
        outcome = Outcome(due_s, time.monotonic())
        while self._idle and not ask.read_pause_s:
            connection = self._idle.pop()
            if connection.usable:
                self._send(connection, ask, outcome)
                return True
            self._open.discard(connection)
        task = asyncio.get_running_loop().create_task(self._connect(ask, outcome))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return True

    async def _connect(self, ask: Ask, outcome: Outcome) -> None:
        try:
            async with asyncio.timeout(_CONNECT_S):
                connection = await self._connection(small_buffer=ask.read_pause_s > 0)
        except (OSError, TimeoutError):
            outcome.failure, outcome.end_s = Failure.CONNECT, time.monotonic()
            self._note(outcome)
            return
        self._open.add(connection)
        if connection.usable:
            self._send(connection, ask, outcome)
        else:
            outcome.failure, outcome.end_s = Failure.CUT, time.monotonic()
            self._on_end(connection, outcome)

    def _send(self, connection: Connection, ask: Ask, outcome: Outcome) -> None:
        connection.send(self._head if ask.key is None else self._target.head(ask.key), ask, outcome)

    async def _connection(self, *, small_buffer: bool) -> Connection:
        loop = asyncio.get_running_loop()
        host, port = self._target.address
        name = host if self._tls else None
        made = Connection(self._target.timeout_s, self._on_end)
        if not small_buffer:
            await loop.create_connection(lambda: made, host, port, ssl=self._tls, server_hostname=name)
            return made
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER_BYTES)
            sock.setblocking(False)
            await loop.sock_connect(sock, (host, port))
            await loop.create_connection(lambda: made, sock=sock, ssl=self._tls, server_hostname=name)
        except BaseException:
            sock.close()
            raise
        return made

    def _on_end(self, connection: Connection, outcome: Outcome) -> None:
        if connection.usable and self._target.keep_alive:
            self._idle.append(connection)
        else:
            connection.close()
            self._open.discard(connection)
        self._note(outcome)

    def _note(self, outcome: Outcome) -> None:
        self.results.add(outcome)
        self._under_way -= 1
        if self._closed_loop:
            self._start_next(outcome.end_s)
        self._ended.set()
