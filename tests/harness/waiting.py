"""Waiting for what is to happen, with an end to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Self

SETTLE_S = 3.0
"""How long what a request held may take to be given back before a check calls it a leak."""
PATIENCE_S = 10.0
"""A client in a test waits this long for anything."""


class Watch:
    """How long a block took: `elapsed_s` after it."""

    elapsed_s = 0.0

    def __enter__(self) -> Self:
        self._began_s = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.elapsed_s = time.monotonic() - self._began_s


async def settled(held: Callable[[], object], complaint: str, within_s: float = SETTLE_S) -> None:
    """Wait until `held` answers nothing.

    Raises:
        AssertionError: it still answers something after `within_s`.
    """
    deadline_s = time.monotonic() + within_s
    while found := held():
        assert time.monotonic() < deadline_s, f"{complaint}: {found}"
        await asyncio.sleep(0.002)
