"""The keys of one issuer, kept up to date in the background. Nothing here is waited for by a token that is known."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from gateway.backoff import Backoff
from gateway.clock import Clock, wall_time_s
from gateway.config.jwt_options import JwtIssuer
from gateway.jwt.fetch import Fetch, FetchFailed
from gateway.jwt.keepsake import Keepsake
from gateway.jwt.keys import Key, KeySet, read_keys

ASK_PAUSE_S = 10.0
"""Between two fetches because of tokens whose keys are not known: anybody can make up such tokens."""
WAIT_S = 3.0
"""Longest that a token waits for such a fetch."""

logger = logging.getLogger(__name__)


class KeySource:
    """One issuer's. Used from one event loop.

    keepsake: where they are kept for a restart while the issuer is away; None: nowhere.
    wall_s:   Unix time in seconds.
    fetched_s: when its keys were last fetched, by the clock; before that, when this was made.
    """

    def __init__(
        self,
        options: JwtIssuer,
        fetch: Fetch,
        clock: Clock,
        rng: random.Random,
        keepsake: Keepsake | None = None,
        wall_s: Callable[[], float] = wall_time_s,
    ) -> None:
        self.options = options
        self._fetch = fetch
        self._keepsake = keepsake
        self._wall_s = wall_s
        self._clock = clock
        self._backoff = Backoff(rng, max_s=min(15.0, options.refresh_s))
        self._keys = KeySet()
        self._had_any = False
        self.fetched_s = clock.monotonic()
        self._asked_s = float("-inf")
        self._wake = asyncio.Event()
        self._round: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._failing = False
        self._told_of_keepsake = False

    def __repr__(self) -> str:
        return f"<KeySource {self.options.name} keys={len(list(self._keys))} good={self.good}>"

    @property
    def good(self) -> bool:
        """Whether its keys are known, and not from too long ago."""
        return self._had_any and self.age_s <= self.options.refresh_s + self.options.grace_s

    @property
    def age_s(self) -> float:
        """Since its keys were last fetched."""
        return self._clock.monotonic() - self.fetched_s

    def find(self, algorithm: str, kid: str | None) -> Key | None:
        return self._keys.find(algorithm, kid)

    def ask(self) -> bool:
        """Fetch the keys soon: one is missing. Whether that is under way; it is not, if it was done a moment ago."""
        if self._round is None:
            return False
        if not self._wake.is_set():
            now_s = self._clock.monotonic()
            if now_s - self._asked_s < ASK_PAUSE_S:
                return False
            self._asked_s = now_s
            self._wake.set()
        return True

    async def answered(self) -> None:
        """The fetch that is under way has ended, well or not, or took too long."""
        if self._round is not None:
            await asyncio.wait((self._round,), timeout=WAIT_S)

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._round = loop.create_future()
        self._wake.set()
        self._task = loop.create_task(self._run(loop), name=f"keys of {self.options.name}")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._round is not None:
            self._round.cancel()
            self._round = None

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        await self._remember()
        while True:
            pause_s = await self._once()
            self._wake.clear()
            done, self._round = self._round, loop.create_future()
            if done is not None and not done.done():
                done.set_result(None)
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                self._wake.set()

    async def _once(self) -> float:
        """Fetch; how long to wait before the next time."""
        try:
            fetched = await self._fetch()
            self.take(fetched.keys)
            await self._keep(fetched.body)
        except FetchFailed as error:
            self._note(str(error))
            return self._backoff.pause_s()
        except Exception:
            logger.exception("the keys of %s cannot be fetched", self.options.name)
            return self._backoff.pause_s()
        self._backoff.reset()
        return self.options.refresh_s

    def take(self, keys: list[Key], age_s: float = 0.0) -> None:
        """These are its keys. age_s: since they were fetched."""
        self._keys = self._keys.followed_by(keys)
        self.fetched_s = self._clock.monotonic() - age_s
        self._had_any = True
        if self._failing:
            self._failing = False
            logger.warning("auth.jwt %s: its keys can be fetched again", self.options.name)

    async def _remember(self) -> None:
        """Begin with the keys that were known to whoever ran before."""
        if self._keepsake is None:
            return
        try:
            kept = await asyncio.to_thread(self._keepsake.read)
            self.take(
                read_keys(kept.body.encode(), self.options.algorithms), max(0.0, self._wall_s() - kept.fetched_at)
            )
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self._tell_of_keepsake(self._keepsake, error)

    async def _keep(self, body: bytes) -> None:
        if self._keepsake is None:
            return
        try:
            await asyncio.to_thread(self._keepsake.write, body, self._wall_s())
        except (OSError, ValueError) as error:
            self._tell_of_keepsake(self._keepsake, error)

    def _tell_of_keepsake(self, keepsake: Keepsake, error: Exception) -> None:
        if not self._told_of_keepsake:
            self._told_of_keepsake = True
            text = "auth.jwt %s: %s: %s; without it a start while the issuer is away knows no keys"
            logger.warning(text, self.options.name, keepsake.path, error)

    def _note(self, reason: str) -> None:
        """Told once for each outage."""
        if self._failing:
            return
        self._failing = True
        left_s = max(0.0, self.options.refresh_s + self.options.grace_s - self.age_s) if self._had_any else 0.0
        kept = f"those known are good for another {left_s:.0f} s" if self._had_any else "no token of it can be checked"
        logger.warning("auth.jwt %s: its keys cannot be fetched: %s; %s", self.options.name, reason, kept)
