"""Threads for the database, so that no loop waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

from gateway.database import Database, open_database

P = ParamSpec("P")
T = TypeVar("T")


class Opener:
    """Opens the database when somebody first needs it, or when it is there again. For several threads."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._database: Database | None = None

    def get(self) -> Database:
        """Blocks.

        Raises:
            DatabaseGone: it cannot be reached now.
            DatabaseUnusable: it cannot be opened, and trying again will not help.
        """
        with self._lock:
            if self._database is None:
                self._database = open_database(self._url)
            return self._database

    def close(self) -> None:
        with self._lock:
            if self._database is not None:
                self._database.close()


class Desk:
    """A few threads that do one piece of work with the database after the other."""

    def __init__(self, opener: Opener, name: str, threads: int = 1) -> None:
        self._opener = opener
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"headrace-{name}")

    async def run(self, work: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work` returns. Cancelling gives up waiting; the work itself goes on.

        Raises:
            DatabaseError: it is away, or cannot be opened at all.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: work(self._opener.get(), *args, **kwargs)
        )

    def close(self, *, wait: bool = False) -> None:
        """What waits is given up; what runs is waited for if `wait`, which blocks. Idempotent."""
        self._threads.shutdown(wait=wait, cancel_futures=True)
