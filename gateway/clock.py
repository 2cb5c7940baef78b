"""Time, so that tests can move it."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds that only grow, from an arbitrary start."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class RealClock:
    def __init__(self) -> None:
        # The bare function: it is read several times a request.
        self.monotonic = time.monotonic

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def wall_time_s() -> float:
    """Unix time. For people, and for what other machines and later processes have to understand."""
    return time.time()  # noqa: TID251 - the one place
