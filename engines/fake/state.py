"""What the parts of one engine share: options, counters, the log of requests, and those who wait for something."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields

from engines.fake.connection import Request
from engines.fake.kv import PrefixCache
from engines.fake.metrics import Metrics
from engines.fake.options import FakeOptions
from engines.fake.plan import Planner
from engines.fake.scheduler import Scheduler

_LOG_REQUESTS = 1000
_LOG_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class Counters:
    """Since the start or the last reset. Requests are those to the model: chat, completions, embeddings."""

    requests: int = 0
    arrived: int = 0
    """Since the last hold or reset; refused ones too."""
    completed: int = 0
    refused: int = 0
    """Answered with an error that was the caller's fault, or 503 for a full queue."""
    faulted: int = 0
    """Ended by an injected fault, error answers included."""
    aborted: int = 0
    """The client went away before its answer was complete."""
    connections: int = 0
    """Accepted."""
    events: int = 0
    """Stream events written."""


class Log:
    """The last requests received, at most 1,000 and 64 MiB of bodies."""

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self._bytes = 0

    def add(self, request: Request) -> None:
        self.requests.append(request)
        self._bytes += len(request.body)
        while len(self.requests) > _LOG_REQUESTS or (self._bytes > _LOG_BYTES and len(self.requests) > 1):
            self._bytes -= len(self.requests.popleft().body)

    def clear(self) -> None:
        self.requests.clear()
        self._bytes = 0


class Watch:
    """Conditions that somebody waits for; looked at after every change, which costs nothing when nobody waits."""

    def __init__(self) -> None:
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def changed(self) -> None:
        for condition, future in tuple(self._waiters):
            if not future.done() and condition():
                future.set_result(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        if condition():
            return
        entry = (condition, asyncio.get_running_loop().create_future())
        self._waiters.append(entry)
        try:
            await entry[1]
        finally:
            self._waiters.remove(entry)


class State:
    """The engine's memory; everything runs in one thread, so plain assignments suffice."""

    def __init__(self, options: FakeOptions) -> None:
        self.first_options = options
        self.options = options
        self.counters = Counters()
        self.log = Log()
        self.watch = Watch()
        self.hung: dict[object, Callable[[], None]] = {}
        """Answers that hang, and how each goes on."""
        self.open = 0
        """Model requests being answered, in the queue or at the gate."""
        self.connected = 0
        self.stalled = 0
        """Connections whose client reads too slowly."""
        self.metrics = Metrics()
        self.planner = Planner(options.seed)
        self.scheduler = Scheduler(options)
        self.prefixes = self._new_prefixes()
        self.started_s = asyncio.get_running_loop().time()
        self.made = 0
        """Answers made so far: the next one's id."""
        self._prefilling_until_s = 0.0

    def _new_prefixes(self) -> PrefixCache:
        size = self.options.block_tokens
        return PrefixCache(size, self.options.kv_tokens // size)

    @property
    def starting(self) -> bool:
        return asyncio.get_running_loop().time() - self.started_s < self.options.startup_s

    def prefilled_after(self, prefill_s: float) -> float:
        """Seconds until a prompt whose own prefill takes so long is prefilled: those before it go first."""
        now_s = asyncio.get_running_loop().time()
        self._prefilling_until_s = max(now_s, self._prefilling_until_s) + prefill_s
        return self._prefilling_until_s - now_s

    def hold(self) -> None:
        self.counters.arrived = 0
        self.scheduler.hold()

    def release(self, count: int | None = None) -> None:
        self.scheduler.release(count)
        if count is None:
            hung, self.hung = self.hung, {}
            for go_on in hung.values():
                go_on()
        self.watch.changed()

    def change(self, options: FakeOptions) -> None:
        """Work under other options from now on; faults are counted and drawn afresh."""
        resized = (options.kv_tokens, options.block_tokens) != (self.options.kv_tokens, self.options.block_tokens)
        self.options = options
        self.planner = Planner(options.seed)
        if resized:
            self.prefixes = self._new_prefixes()
        self.scheduler.refit(options)
        self.watch.changed()

    def reset(self) -> None:
        """As at the start, but for requests in flight: counters, log, caches, options, the gate open."""
        self.counters = Counters()
        self.log.clear()
        self.metrics = Metrics()
        self.prefixes.clear()
        self._prefilling_until_s = 0.0
        self.change(self.first_options)
        self.release()

    def stats(self) -> dict[str, int]:
        counts = {field.name: int(getattr(self.counters, field.name)) for field in fields(self.counters)}
        scheduler = self.scheduler
        return counts | {
            "open": self.open,
            "running": scheduler.running,
            "waiting": scheduler.waiting,
            "held": scheduler.held,
            "hung": len(self.hung),
            "connected": self.connected,
            "stalled": self.stalled,
        }
