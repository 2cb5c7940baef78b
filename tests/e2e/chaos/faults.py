"""Every kind of fault, each as a block: while it lasts the replica is at fault, after it the cause is gone."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from tests.e2e.chaos.proxy import Behaviour, Cutting, HalfClosing, Resetting, Silent, Trickling
from tests.e2e.chaos.replica import Replica

ANSWER_BYTES = range(5000)
"""About as many as a streamed answer has on the wire: a cut there falls into heads, first events and later ones."""
MALFORMED = ("bad-json", "no-done", "no-terminator", "wrong-length", "bad-chunk", "error-200", "garbage-status")
"""Not `null-choices`, which is well-formed: what an answer says is the engine's word."""
Fault = Callable[[Replica, random.Random], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def killed(replica: Replica, rng: random.Random) -> AsyncIterator[None]:
    replica.signal(signal.SIGKILL)
    await replica.ended()
    yield
    await replica.start()


@asynccontextmanager
async def restarted(replica: Replica, rng: random.Random) -> AsyncIterator[None]:
    replica.signal(signal.SIGTERM)
    await replica.ended()
    await replica.start()
    yield


@asynccontextmanager
async def stopped(replica: Replica, rng: random.Random) -> AsyncIterator[None]:
    replica.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        replica.signal(signal.SIGCONT)


@asynccontextmanager
async def _behaving(replica: Replica, behaviour: Behaviour) -> AsyncIterator[None]:
    replica.proxy.behaviour = behaviour
    try:
        yield
    finally:
        replica.proxy.behaviour = Behaviour()
        replica.proxy.cut_all()


def silent(replica: Replica, rng: random.Random) -> AbstractAsyncContextManager[None]:
    return _behaving(replica, Silent())


@asynccontextmanager
async def backlog_full(replica: Replica, rng: random.Random) -> AsyncIterator[None]:
    async with _behaving(replica, Silent()), replica.proxy.full_backlog():
        yield


@asynccontextmanager
async def resetting(replica: Replica, rng: random.Random) -> AsyncIterator[None]:
    replica.proxy.cut_all(reset=True)
    async with _behaving(replica, Resetting()):
        yield


def cutting(replica: Replica, rng: random.Random) -> AbstractAsyncContextManager[None]:
    return _behaving(replica, Cutting(rng, ANSWER_BYTES))


def half_closing(replica: Replica, rng: random.Random) -> AbstractAsyncContextManager[None]:
    return _behaving(replica, HalfClosing(rng, ANSWER_BYTES))


def trickling(replica: Replica, rng: random.Random) -> AbstractAsyncContextManager[None]:
    """Some answers begin within the limit on the time to first token, some do not."""
    return _behaving(replica, Trickling(rng, (0.001, 0.003, 0.05)))


@asynccontextmanager
async def flapping(replica: Replica, rng: random.Random) -> AsyncIterator[None]:
    """Open and shut, several times a second."""

    async def flap() -> None:
        while True:
            replica.proxy.refuse()
            replica.proxy.cut_all(reset=rng.random() < 0.5)
            await asyncio.sleep(rng.uniform(0.05, 0.4))
            await replica.proxy.listen()
            await asyncio.sleep(rng.uniform(0.05, 0.4))

    task = asyncio.create_task(flap())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _configured(replica: Replica, **options: object) -> AsyncIterator[None]:
    await replica.configure(**options)
    yield
    await replica.configure(error_rate=0.0, malformed=None)


def storm_of_429(replica: Replica, rng: random.Random) -> AbstractAsyncContextManager[None]:
    return _configured(replica, error_rate=rng.uniform(0.5, 1.0), error_status=429)


def storm_of_503(replica: Replica, rng: random.Random) -> AbstractAsyncContextManager[None]:
    return _configured(replica, error_rate=rng.uniform(0.5, 1.0), error_status=503)


def malformed(replica: Replica, rng: random.Random) -> AbstractAsyncContextManager[None]:
    return _configured(replica, malformed=rng.choice(MALFORMED))


FAULTS: dict[str, Fault] = {
    "kill -9": killed,
    "restart": restarted,
    "SIGSTOP": stopped,
    "never answers": silent,
    "backlog full": backlog_full,
    "RST": resetting,
    "cut mid-answer": cutting,
    "half-closed": half_closing,
    "slow loris": trickling,
    "flapping": flapping,
    "429 storm": storm_of_429,
    "503 storm": storm_of_503,
    "malformed": malformed,
}
UNSEEN = {"kill -9", "restart", "backlog full", "flapping"}
"""While these last, attempts fail without reaching the proxy."""
