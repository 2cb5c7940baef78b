"""The guard: a process that outlives a killed supervisor just long enough to end the engines that it left."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

from . import leftovers

logger = logging.getLogger(__name__)

_END_WAIT_S = 5.0


class Guard:
    """`environment`: what every engine must get, so that the guard knows it."""

    def __init__(self, process: asyncio.subprocess.Process, environment: dict[str, str]) -> None:
        self.pid = process.pid
        self.environment = environment
        self._process = process

    @classmethod
    async def start(cls) -> Guard:
        """Kill what an earlier supervisor left, and watch over this one.

        Raises:
            OSError: the system cannot start another process.
        """
        environment = await asyncio.to_thread(_prepare)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(Path(leftovers.__file__)), environment[leftovers.VARIABLE]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={key: value for key, value in os.environ.items() if key != leftovers.VARIABLE},
            start_new_session=True,
        )
        return cls(process, environment)

    async def end(self) -> None:
        """Let it kill what is still there, if anything is, and end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _END_WAIT_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def _prepare() -> dict[str, str]:
    killed = leftovers.kill_orphans()
    if killed:
        logger.warning("killed what the engines of a supervisor that was killed had left: %s", ", ".join(killed))
    return leftovers.environment()
