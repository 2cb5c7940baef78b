"""Who wakes a pool, among all workers of this user on this machine: a lock on a file, which dies with its process."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from pathlib import Path

from gateway.process.machine import state_folder


class WakeTurn:
    """One wake at a time. `what`: equal for those who would wake the same pool in the same way."""

    def __init__(self, what: str, folder: Path | None = None) -> None:
        name = hashlib.sha256(what.encode()).hexdigest()[:32]
        self._path = (folder or state_folder() / "wake") / name
        self._fd = -1

    async def take(self) -> bool:
        """Whether the waking is ours. Where no file can be locked, everybody wakes for himself."""
        if self._fd < 0:
            self._fd = await asyncio.to_thread(self._lock)
        return self._fd >= 0

    def give_back(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _lock(self) -> int:
        """The locked file; -1: somebody else has it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return -1
        return fd
