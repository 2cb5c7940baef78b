"""Virtual time: when nothing is left to do the clock jumps to the next timer. Sockets on loopback work as ever."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple
from unittest.mock import patch

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
START_S = 1000.0
_REAL_WAIT_S = 0.002


class _Selector(selectors.DefaultSelector):
    """What was written on loopback can be read at once: where there is nothing to read, nobody has anything to do."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = START_S
        self.threads = 0
        """Jobs in threads; they take no virtual time."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self.threads:
            return super().select(_REAL_WAIT_S)
        self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now_s

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        self._virtual.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._returned)
        return future

    def _returned(self, future: asyncio.Future[Any]) -> None:
        self._virtual.threads -= 1


class LoopClock:
    """The clock of the running loop."""

    def __init__(self) -> None:
        self.monotonic = asyncio.get_running_loop().time

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs `main` on a loop of its own."""
    loop = VirtualLoop()
    # Connections to engines stamp what arrives with the bare function, for speed.
    with patch("engines.connection._now", loop.time), asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main())
