"""`FakeEngine`: the server on the running loop, and the handles that tests hold it by."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from engines.fake.connection import Connection, Request
from engines.fake.control import Control
from engines.fake.options import FakeOptions
from engines.fake.routes import ModelApi
from engines.fake.state import Counters, State


class FakeEngine:
    """An engine without a model, on a socket of its own.

    async with FakeEngine(FakeOptions(itl_s=0.01)) as engine:
        engine.hold()
        ...  # somebody sends requests to engine.url
        await engine.arrived(2)
        engine.release()
    """

    def __init__(self, options: FakeOptions | None = None) -> None:
        self._first_options = options or FakeOptions()
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._state: State | None = None
        self._api: ModelApi | None = None
        self._control: Control | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be bound.
        """
        options = self._first_options
        self._state = State(options)
        self._api, self._control = ModelApi(self._state), Control(self._state)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), options.host, options.port, backlog=4096)

    async def aclose(self) -> None:
        """Stop listening and cut all connections. Idempotent."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        tasks = self._control.cancel() if self._control is not None else []
        for connection in tuple(self._connections):
            connection.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.state.watch.until(lambda: not self._connections)
        await server.wait_closed()

    @property
    def state(self) -> State:
        if self._state is None:
            raise RuntimeError("the fake engine has not been started")
        return self._state

    @property
    def port(self) -> int:
        if self._server is None:
            raise RuntimeError("the fake engine is not listening")
        number: int = self._server.sockets[0].getsockname()[1]
        return number

    @property
    def url(self) -> str:
        """Base URL without `/v1`."""
        host = self._first_options.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def options(self) -> FakeOptions:
        return self.state.options

    def configure(self, **changes: object) -> None:
        """Change options by field name, from the next request on.

        Raises:
            OptionError: a name, type or value is wrong.
        """
        self.state.change(self.state.options.changed(changes))

    @property
    def stats(self) -> EngineStats:
        return EngineStats(self.state)

    @property
    def requests(self) -> list[Request]:
        """The last 1,000 requests, oldest first, those under /fake/ left out."""
        return list(self.state.log.requests)

    def hold(self) -> None:
        """Let no request to the model past the gate: it gets its slot if one is free, and no byte of an answer."""
        self.state.hold()

    def release(self, count: int | None = None) -> None:
        """Let `count` requests pass, now or as they come; None: open the gate, and let hung answers go on."""
        self.state.release(count)

    def reset(self) -> None:
        """As freshly started, but for requests in flight."""
        self.state.reset()

    async def arrived(self, count: int = 1) -> None:
        """Wait until that many requests to the model have come since the last `hold`, `reset` or the start."""
        await self.state.watch.until(lambda: self.state.counters.arrived >= count)

    async def hung(self, count: int = 1) -> None:
        """Wait until that many answers hang at once."""
        await self.state.watch.until(lambda: len(self.state.hung) >= count)

    async def stalled(self, count: int = 1) -> None:
        """Wait until that many clients at once read too slowly, so that their answers stand still."""
        await self.state.watch.until(lambda: self.state.stalled >= count)

    async def aborted_at_least(self, count: int = 1) -> None:
        """Wait until that many clients have gone away before their answer was complete."""
        await self.state.watch.until(lambda: self.state.counters.aborted >= count)

    async def idle(self) -> None:
        """Wait until no request to the model is open."""
        await self.state.watch.until(lambda: self.state.open == 0)

    def connected(self, connection: Connection) -> float:
        self._connections.add(connection)
        self.state.connected += 1
        self.state.counters.connections += 1
        return self.state.options.slow_accept_s

    def disconnected(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self.state.connected -= 1
        self.state.watch.changed()

    def stalled_by(self, connection: Connection, change: int) -> None:
        self.state.stalled += change
        self.state.watch.changed()

    def serve(self, connection: Connection, request: Request) -> None:
        assert self._api is not None
        assert self._control is not None
        if request.path.startswith("/fake/"):
            self._control.serve(connection, request)
            return
        self.state.log.add(request)
        self._api.serve(connection, request)


class EngineStats:
    """A live view: `requests`, `completed`, ... as counted, and `open`, `running`, `waiting`, ... as they stand."""

    def __init__(self, state: State) -> None:
        self._state = state

    def __repr__(self) -> str:
        return f"EngineStats({', '.join(f'{name}={value}' for name, value in self._state.stats().items())})"

    @property
    def counters(self) -> Counters:
        return self._state.counters

    def __getattr__(self, name: str) -> int:
        try:
            return self._state.stats()[name]
        except KeyError:
            raise AttributeError(name) from None
