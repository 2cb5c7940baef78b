"""Pools that scale to zero: requests are held while the pool is woken, once for all of them (R10)."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from gateway.clock import Clock
from gateway.config.pool_options import ScaleToZero, Wake
from gateway.errors import ApiError, NoHealthyBackend, Overloaded
from gateway.replicas import Replica
from gateway.wake_turn import WakeTurn

if TYPE_CHECKING:
    from gateway.pools import Pool

logger = logging.getLogger(__name__)

POLL_S = 0.2
"""How often the replicas of a waking pool are asked for their health."""
WEBHOOK_S = 30.0
REST_S = 5.0
"""After waking has failed it is not tried again for this long."""
_END_S = 2.0


class WakeFailed(Exception):
    """The command or the webhook said no."""


class Waker:
    """Wakes one pool. Used from its worker's event loop alone.

    warm: what a woken replica has to go through before it gets traffic; True: it is fit.
    """

    def __init__(
        self, pool: Pool, options: ScaleToZero, clock: Clock, warm: Callable[[Replica], Awaitable[bool]]
    ) -> None:
        self._pool = pool
        self._options = options
        self._clock = clock
        self._warm = warm
        self._held = 0
        self._waking: asyncio.Task[None] | None = None
        self._rests_until_s = 0.0
        self._last_failure = ""
        self._call: Callable[[], Awaitable[None]]
        self._command: _Command | None = None
        self._turn = WakeTurn(f"{pool.name} {options.wake.command} {options.wake.webhook}")
        if options.wake.webhook is not None:
            self._call = _Webhook(options.wake, pool.name).call
        else:
            self._command = _Command(options.wake.command)
            self._call = self._command.call

    def __repr__(self) -> str:
        return f"<Waker {self._pool.name} held={self._held} waking={self.waking}>"

    @property
    def held(self) -> int:
        """Requests that wait."""
        return self._held

    @property
    def waking(self) -> bool:
        return self._waking is not None

    @property
    def wait_s(self) -> float:
        return self._options.wait_s

    async def hold(self, deadline_s: float) -> None:
        """Returns when a replica of the pool answers its health path. Cancelling it leaves the waking to others.

        Raises:
            Overloaded: as many requests wait as may.
            NoHealthyBackend: it did not wake by `deadline_s`, or cannot be woken.
        """
        name, most = self._pool.name, self._options.hold_max
        if self._held >= most:
            message = f"Pool {name!r} is asleep, and {most} requests wait for it already (`scale_to_zero.hold_max`)."
            raise Overloaded(message, retry_after_s=REST_S)
        self._held += 1
        try:
            async with asyncio.timeout(max(0.0, deadline_s - self._clock.monotonic())):
                await asyncio.shield(self._wake())
        except TimeoutError:
            limit = f"within {self._options.wait_s:g} s (`scale_to_zero.wait_s`)"
            raise NoHealthyBackend(f"Pool {name!r} did not wake {limit}.", retry_after_s=REST_S) from None
        except WakeFailed:
            rest_s = max(1.0, self._rests_until_s - self._clock.monotonic())
            raise NoHealthyBackend(f"Pool {name!r} is asleep and cannot be woken.", retry_after_s=rest_s) from None
        finally:
            self._held -= 1

    def nudge(self) -> None:
        """Have it woken, while somebody else answers."""
        self._wake()

    async def aclose(self) -> None:
        """Give up waking. A command that still runs is ended."""
        if self._waking is not None:
            self._waking.cancel()
            await asyncio.wait((self._waking,))
        if self._command is not None:
            await self._command.aclose()

    def _wake(self) -> asyncio.Task[None]:
        """The waking that is under way, or a new one."""
        if self._waking is None:
            self._waking = asyncio.get_running_loop().create_task(self._until_awake())
            self._waking.add_done_callback(self._ended)
        return self._waking

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._waking = None
        if not task.cancelled():
            task.exception()  # those who wait have it; if all have left, nobody need

    async def _until_awake(self) -> None:
        if await self._fit(woken=False):
            await self._clock.sleep(POLL_S)  # one that answers its health path but no request is asked no faster
            return
        if self._clock.monotonic() < self._rests_until_s:
            raise WakeFailed(self._last_failure)
        began_s = self._clock.monotonic()
        logger.info("pool %s is asleep: it is woken", self._pool.name)
        try:
            called = False
            while not await self._fit(woken=True):
                if not called and await self._turn.take():
                    called = True
                    await self._call()
                if self._command is not None:
                    self._command.check()
                if self._clock.monotonic() - began_s > self._options.wait_s:
                    raise WakeFailed(f"no replica answered within {self._options.wait_s:g} s")
                await self._clock.sleep(POLL_S)
        except WakeFailed as failure:
            self._last_failure = str(failure)
            self._rests_until_s = self._clock.monotonic() + REST_S
            logger.error("pool %s was not woken: %s", self._pool.name, failure)
            raise
        finally:
            self._turn.give_back()
        logger.info("pool %s is awake after %.1f s", self._pool.name, self._clock.monotonic() - began_s)

    async def _fit(self, *, woken: bool) -> bool:
        """Whether any replica answers. One that was just woken begins anew; another is given the chance of a probe."""
        replicas = self._pool.replicas
        answers = await asyncio.gather(*(replica.engine.healthy() for replica in replicas))
        fit = False
        for replica, well in zip(replicas, answers, strict=True):
            if well and (not woken or await self._warm(replica)):
                replica.breaker.seems_well(self._clock.monotonic())
                if woken:
                    replica.breaker.succeeded()
                fit = True
        return fit


def sleeper(pools: Iterable[Pool], failure: ApiError | None) -> Waker | None:
    """Who can help a request for which nobody could be reached; None: nobody."""
    if not isinstance(failure, NoHealthyBackend) and (failure is None or failure.code != "connect_timeout"):
        return None
    return next((pool.waker for pool in pools if pool.waker is not None), None)


class _Command:
    """A program to run. While it runs it is not started again."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None

    async def call(self) -> None:
        if self._process is not None and self._process.returncode is None:
            return
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            raise WakeFailed(f"{self._command[0]!r} cannot be run: {error.strerror or error}") from None

    def check(self) -> None:
        """Raises WakeFailed if it has failed."""
        code = self._process.returncode if self._process is not None else None
        if code:
            raise WakeFailed(f"{self._command[0]!r} ended with {code}")

    async def aclose(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_END_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


class _Webhook:
    """A URL to post to."""

    def __init__(self, wake: Wake, pool: str) -> None:
        self._url = wake.webhook or ""
        self._headers = {name: value.get_secret_value() for name, value in wake.webhook_headers.items()}
        self._pool = pool

    async def call(self) -> None:
        import httpx

        try:
            async with await asyncio.to_thread(httpx.AsyncClient, trust_env=False, timeout=WEBHOOK_S) as client:
                response = await client.post(self._url, json={"pool": self._pool}, headers=self._headers)
        except httpx.HTTPError as error:
            raise WakeFailed(f"the webhook: {str(error) or type(error).__name__}") from None
        if not response.is_success:
            raise WakeFailed(f"the webhook answered {response.status_code}")
