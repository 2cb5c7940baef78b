"""The engine's remote control, for tests in another process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from urllib.parse import parse_qs

import msgspec

from engines.fake.connection import Connection, Request
from engines.fake.options import OptionError
from engines.fake.state import State


class _BadCount(ValueError):
    pass


class Control:
    """Paths under /fake/. Those that wait answer when the condition holds."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._tasks: set[asyncio.Task[None]] = set()
        self._paths: dict[tuple[str, str], Callable[[Connection, Request], None]] = {
            ("POST", "/fake/hold"): self._hold,
            ("POST", "/fake/release"): self._release,
            ("POST", "/fake/reset"): self._reset,
            ("POST", "/fake/options"): self._options,
            ("GET", "/fake/stats"): lambda c, _: self._stats(c),
            ("GET", "/fake/requests"): self._requests,
            ("GET", "/fake/arrived"): self._arrived,
            ("GET", "/fake/aborted"): self._aborted,
            ("GET", "/fake/idle"): self._idle,
        }

    def serve(self, connection: Connection, request: Request) -> None:
        handler = self._paths.get((request.method, request.path))
        if handler is None:
            known = ", ".join(f"{method} {path}" for method, path in self._paths)
            self._fail(connection, 404, f"no {request.method} {request.path} here; there are {known}")
            return
        try:
            handler(connection, request)
        except (_BadCount, OptionError, msgspec.DecodeError) as error:
            self._fail(connection, 400, str(error))

    def cancel(self) -> list[asyncio.Task[None]]:
        """End what waits; answers the tasks, to be awaited."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        return tasks

    def _fail(self, connection: Connection, status: int, message: str) -> None:
        connection.send(status, msgspec.json.encode({"error": message}))

    def _stats(self, connection: Connection) -> None:
        connection.send(200, msgspec.json.encode(self._state.stats() | {"pid": os.getpid()}))

    def _hold(self, connection: Connection, _: Request) -> None:
        self._state.hold()
        self._stats(connection)

    def _release(self, connection: Connection, request: Request) -> None:
        self._state.release(_count(request, None))
        self._stats(connection)

    def _reset(self, connection: Connection, _: Request) -> None:
        self._state.reset()
        self._stats(connection)

    def _options(self, connection: Connection, request: Request) -> None:
        changes = msgspec.json.decode(request.body or b"{}", type=dict[str, object])
        self._state.change(self._state.options.changed(changes))
        connection.send(200, msgspec.json.encode(self._state.options))

    def _requests(self, connection: Connection, _: Request) -> None:
        entries = [
            {
                "method": entry.method,
                "path": entry.path,
                "query": entry.query,
                "headers": entry.headers,
                "body": entry.body.decode("utf-8", "replace"),
            }
            for entry in self._state.log.requests
        ]
        connection.send(200, msgspec.json.encode(entries))

    def _arrived(self, connection: Connection, request: Request) -> None:
        count = _count(request, 1) or 0
        self._when(connection, lambda: self._state.counters.arrived >= count)

    def _aborted(self, connection: Connection, request: Request) -> None:
        count = _count(request, 1) or 0
        self._when(connection, lambda: self._state.counters.aborted >= count)

    def _idle(self, connection: Connection, _: Request) -> None:
        self._when(connection, lambda: self._state.open == 0)

    def _when(self, connection: Connection, condition: Callable[[], bool]) -> None:
        async def answer() -> None:
            await self._state.watch.until(condition)
            self._stats(connection)

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        connection.on_gone = lambda: _cancel(task)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _count(request: Request, default: int | None) -> int | None:
    values = parse_qs(request.query).get("n")
    if not values:
        return default
    if not values[0].isdigit():
        raise _BadCount(f"n={values[0]} is not a whole number")
    return int(values[0])
