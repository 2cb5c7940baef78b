"""Access tokens of clouds: fetched in a thread by the vendor's library, kept until shortly before they expire."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Protocol

import msgspec

from engines.base import EngineUnreachable

REFRESH_BEFORE_S = 300.0
"""A token that expires within this time is replaced while it still serves."""
LAST_S = 15.0
"""A token that expires within this time is not sent any more: the request may be under way that long."""
RETRY_S = 1.0
"""After a failure the next try is this far off: a token service that is down is asked, and logged, once a second."""
MIN_AGE_S = 60.0
"""A token younger than this was not refused because it is old."""

logger = logging.getLogger(__name__)


class Token(msgspec.Struct, frozen=True):
    """An access token, and for how long from now it lets anybody in."""

    value: str
    lifetime_s: float


class TokenSource(Protocol):
    """A vendor's library."""

    def fetch(self) -> Token:
        """A new token. Blocks; called in a thread, once at a time. Raises what the library raises."""
        ...

    def close(self) -> None:
        """Close the library's idle connections."""
        ...


class BearerSigner:
    """Implements `Signer` with a token that everybody shares and at most one fetch at a time.

    setting: the configuration key that says where tokens come from, for whoever reads why there are none.
    """

    def __init__(self, source: TokenSource, setting: str) -> None:
        self._source = source
        self._setting = setting
        self._value = ""
        self._fetched_s = 0.0
        self._expires_s = 0.0
        self._failed_s = 0.0
        self._failure = ""
        self._fetching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        left_s = max(0.0, self._expires_s - time.monotonic())
        return f"<BearerSigner {'fetching ' if self._fetching else ''}expires_in={left_s:.0f}s>"

    async def headers(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        """The token, from the cache if it has one.

        Raises:
            EngineUnreachable: none could be had.
        """
        left_s = self._expires_s - time.monotonic()
        if left_s < REFRESH_BEFORE_S:
            fetching = self._fetch()
            if left_s < LAST_S:
                if fetching is not None:
                    # Others may wait for it too: who hangs up does not stop it.
                    await asyncio.shield(fetching)
                if self._expires_s - time.monotonic() < LAST_S:
                    raise EngineUnreachable(f"no access token: {self._failure}; check `{self._setting}`")
        return {"authorization": f"Bearer {self._value}"}

    def renew(self, refused: Mapping[str, str]) -> bool:
        """The peer refused these headers. Whether another try makes sense: with the token that has taken their place
        meanwhile, or with a new one."""
        if refused["authorization"] != f"Bearer {self._value}":
            return True
        if time.monotonic() - self._fetched_s < MIN_AGE_S:
            return False
        self._expires_s = 0.0
        return True

    async def aclose(self) -> None:
        """Wait for no token any more."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        self._source.close()

    def _fetch(self) -> asyncio.Task[None] | None:
        """The fetch under way, begun if it is time for one."""
        if self._fetching is None and time.monotonic() - self._failed_s >= RETRY_S:
            self._fetching = asyncio.get_running_loop().create_task(self._replace(), name="access token")
        return self._fetching

    async def _replace(self) -> None:
        try:
            token = await asyncio.to_thread(self._source.fetch)
        except Exception as error:  # the vendors' libraries have no common base, and pass on what theirs raise
            self._failed_s = time.monotonic()
            self._failure = f"{type(error).__name__}: {error}"[:500]
            logger.warning("no access token: %s; check `%s`", self._failure, self._setting)
        else:
            self._value = token.value
            self._fetched_s = time.monotonic()
            self._expires_s = self._fetched_s + token.lifetime_s
            self._failed_s, self._failure = 0.0, "it expired as it came"
        finally:
            self._fetching = None
