"""Tenants at random times before the whole gateway, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from tests.harness import Json, Server, config_of, engine_running, serving, streamed
from tests.harness.virtual import LoopClock, in_virtual_time


@dataclass(frozen=True)
class Traffic:
    """rates: requests per second by tenant. Lengths in tokens are drawn evenly from `prompt` and `output`.

    settle_s: what is asked before is not counted: nothing is known of the engines' speed then.
    """

    rates: Mapping[str, float]
    prompt: tuple[int, int]
    output: tuple[int, int]
    span_s: float
    settle_s: float = 5.0


@dataclass
class Asked:
    """One request. Its times are in seconds since the start; inf: it did not come to that."""

    tenant: str
    at_s: float
    prompt_tokens: int
    output_tokens: int
    status: int = 0
    first_s: float = math.inf
    end_s: float = math.inf
    replica: str = ""

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.at_s


@dataclass
class Outcome:
    traffic: Traffic
    asked: list[Asked] = field(default_factory=list)

    def p99_ttft_s(self, tenants: Iterable[str]) -> float:
        """Of what was asked in time to be answered."""
        names, traffic = set(tenants), self.traffic
        last_s = traffic.span_s - 3.0
        ttfts = sorted(a.ttft_s for a in self.asked if a.tenant in names and traffic.settle_s <= a.at_s < last_s)
        return ttfts[math.ceil(0.99 * len(ttfts)) - 1]

    def served_tokens(self) -> int:
        """Of prompts and answers that ended in time."""
        traffic = self.traffic
        ended = [a for a in self.asked if traffic.settle_s <= a.end_s <= traffic.span_s]
        return sum(a.prompt_tokens + a.output_tokens for a in ended)


def played(traffic: Traffic, engines: list[Json], *, seed: int = 1, **config: Any) -> Outcome:
    """What became of the traffic. engines: options of each fake engine; config: as `config_of` takes it."""
    return in_virtual_time(lambda: _play(traffic, engines, seed, config))


def load(traffic: Traffic, seed: int) -> list[Asked]:
    """A tenant's requests do not depend on who else there is."""
    asked = []
    for tenant, per_s in traffic.rates.items():
        rng = random.Random(f"{seed} {tenant}")
        at_s = rng.expovariate(per_s)
        while at_s < traffic.span_s:
            asked.append(Asked(tenant, at_s, rng.randint(*traffic.prompt), rng.randint(*traffic.output)))
            at_s += rng.expovariate(per_s)
    return sorted(asked, key=lambda a: a.at_s)


async def _play(traffic: Traffic, engines: list[Json], seed: int, config: Json) -> Outcome:
    keys = [{"name": name, "key": f"key-of-{name}", "tenant": name} for name in traffic.rates]
    outcome = Outcome(traffic, load(traffic, seed))
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(engine_running(**options)) for options in engines]
        config = config_of(*running, keys=keys, **config)
        server = await stack.enter_async_context(serving(config, clock=LoopClock()))
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        tasks = []
        for number, asked in enumerate(outcome.asked):
            await asyncio.sleep(began_s + asked.at_s - loop.time())
            tasks.append(loop.create_task(_ask(server, asked, number, began_s)))
        await asyncio.sleep(began_s + traffic.span_s - loop.time())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return outcome


async def _ask(server: Server, asked: Asked, number: int, began_s: float) -> None:
    loop = asyncio.get_running_loop()
    body = streamed(f"{number} " + "word " * asked.prompt_tokens, max_tokens=asked.output_tokens)
    async with server.asking(body, authorization=f"Bearer key-of-{asked.tenant}") as wire:
        while True:
            with contextlib.suppress(TimeoutError):
                head = await wire.read_head()
                break
        asked.status, asked.replica = head.status, head.get("x-headrace-replica") or ""
        if head.status != 200:
            await wire.read_body()
            return
        while chunk := await wire.read_chunk():
            if asked.first_s == math.inf and chunk.startswith(b"data: "):
                asked.first_s = loop.time() - began_s
        asked.end_s = loop.time() - began_s
