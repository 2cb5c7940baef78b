"""Waiting for what is to happen, with an end to it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Self

SETTLE_S = 3.0
"""How long what a request held may take to be given back before a check calls it a leak."""
PATIENCE_S = 10.0
"""A client in a test waits this long for anything."""
TICK_S = 0.01


class Watch:
    """How long a block took: `elapsed_s` after it. Used on a loop, it also knows how long the machine kept that from
    running, which is nobody's delay."""

    elapsed_s = 0.0
    stalled_s = 0.0
    _ticker: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._began_s = time.monotonic()
        with contextlib.suppress(RuntimeError):
            self._tick(asyncio.get_running_loop(), self._began_s)
        return self

    def __exit__(self, *_: object) -> None:
        now_s = time.monotonic()
        self.elapsed_s = now_s - self._began_s
        if self._ticker is not None:
            self._ticker.cancel()
            self._late(now_s)

    @property
    def own_s(self) -> float:
        """How long it took, stalls of the machine apart."""
        return self.elapsed_s - self.stalled_s

    def within(self, most_s: float) -> bool:
        return self.own_s < most_s

    def between(self, least_s: float, most_s: float) -> bool:
        return self.elapsed_s > least_s and self.within(most_s)

    def _tick(self, loop: asyncio.AbstractEventLoop, now_s: float) -> None:
        self._due_s = now_s + TICK_S
        self._ticker = loop.call_later(TICK_S, self._again, loop)

    def _again(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = time.monotonic()
        self._late(now_s)
        self._tick(loop, now_s)

    def _late(self, now_s: float) -> None:
        if now_s - self._due_s > TICK_S:
            self.stalled_s += now_s - self._due_s


async def settled(held: Callable[[], object], complaint: str, within_s: float = SETTLE_S) -> None:
    """Wait until `held` answers nothing.

    Raises:
        AssertionError: it still answers something after `within_s`.
    """
    deadline_s, looks = time.monotonic() + within_s, 0
    while found := held():
        # On a machine that stalls much time goes by in which nothing can settle.
        assert time.monotonic() < deadline_s or looks < 50 * within_s, f"{complaint}: {found}"
        await asyncio.sleep(0.002)
        looks += 1
