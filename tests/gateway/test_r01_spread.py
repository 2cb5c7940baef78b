"""Work is spread by what is outstanding and who had least of late (R01), though all share a prefix (R02)."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from engines.fake import FakeEngine
from tests.gateway.tenants import Traffic, played
from tests.harness import Json, Server, chat, config_of, engine_running, serving
from tests.harness.virtual import LoopClock, in_virtual_time

SPEED: Json = {"prefill_tps": 10_000, "prompt_tokens_details": True, "output_tokens": 8, "itl_s": 0.02}
SYSTEM = "You are of help to everybody who asks. " * 150


def asked(text: str, *, system: str = "") -> Json:
    body = chat(text)
    if system:
        body["messages"].insert(0, {"role": "system", "content": system})
    return body


class Site:
    """Fake engines behind a gateway, in virtual time."""

    def __init__(self, server: Server, engines: list[FakeEngine]) -> None:
        self.server = server
        self.engines = engines

    async def ask(self, body: Json) -> tuple[str, Json]:
        """Which replica answers, and the usage that it tells."""
        async with self.server.asking(body) as wire:
            answer = await wire.answer()
            assert answer.status == 200
            return answer.head.get("x-headrace-replica") or "", json.loads(answer.body)["usage"]

    @property
    def requests(self) -> list[int]:
        return [engine.stats.requests for engine in self.engines]


class _Run:
    def __init__(self, count: int, **options: Any) -> None:
        self._stack = AsyncExitStack()
        self._count, self._options = count, options

    async def __aenter__(self) -> Site:
        engines = [await self._stack.enter_async_context(engine_running(**SPEED)) for _ in range(self._count)]
        server = serving(config_of(*engines, **self._options), clock=LoopClock())
        return Site(await self._stack.enter_async_context(server), engines)

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


def test_r01_paced_calls_that_never_overlap_spread() -> None:
    async def main() -> None:
        async with _Run(4) as site:
            for i in range(40):
                await site.ask(asked(f"{i} is a number of its own " * 20))
                await asyncio.sleep(2.0)
            assert min(site.requests) >= 5, site.requests
            assert max(site.requests) <= 1.5 * 10, site.requests

    in_virtual_time(main)


def test_r01_a_replica_that_idled_for_a_minute_still_gets_traffic() -> None:
    """It proved slow, or so it looked; what was learned of it grows old."""

    async def main() -> None:
        async with _Run(2) as site:
            site.engines[0].configure(prefill_tps=500)
            for i in range(30):
                await site.ask(asked(f"{i} is a number of its own " * 40))
            before = site.requests
            site.engines[0].configure(prefill_tps=10_000)
            await asyncio.sleep(60.0)
            for i in range(30):
                await site.ask(asked(f"{i} is another number " * 40))
            assert site.requests[0] - before[0] >= 5, site.requests

    in_virtual_time(main)


def test_r02_a_system_prompt_that_all_share_pins_traffic_to_nobody() -> None:
    async def main() -> None:
        async with _Run(4) as site:
            calls = [asked(f"{i}: what do you say to this? " * 10, system=SYSTEM) for i in range(160)]
            tasks = []
            for body in calls:
                tasks.append(asyncio.create_task(site.ask(body)))
                await asyncio.sleep(0.02)
            await asyncio.gather(*tasks)
            assert max(site.requests) <= 1.5 * 160 / 4, site.requests

    in_virtual_time(main)


def test_r02_a_conversation_stays_where_its_prefix_is() -> None:
    """By the engines' own count of cached tokens."""

    async def main() -> None:
        async with _Run(4) as site:
            conversations: list[list[Json]] = [[{"role": "user", "content": f"{i} " * 800}] for i in range(8)]
            homes: list[list[str]] = [[] for _ in conversations]
            cached = uncached = 0
            for turn in range(5):
                for i, messages in enumerate(conversations):
                    replica, usage = await site.ask({"model": "m", "messages": messages})
                    homes[i].append(replica)
                    if turn:
                        hit = usage["prompt_tokens_details"]["cached_tokens"]
                        cached, uncached = cached + hit, uncached + usage["prompt_tokens"] - hit
                    messages += [
                        {"role": "assistant", "content": f"answer {i} of {turn} " * 20},
                        {"role": "user", "content": f"and then? {turn} " * 10},
                    ]
            assert all(len(set(home)) == 1 for home in homes), homes
            assert len({home[0] for home in homes}) == 4, "the first turns spread"
            assert cached / (cached + uncached) > 0.8

    in_virtual_time(main)


def test_an_engine_that_never_caches_is_soon_treated_so() -> None:
    """It says 0 `cached_tokens`: what it was sent is no reason to send it more."""

    async def main() -> None:
        async with _Run(2) as site:
            for i in range(130):
                body = asked(f"{i} of those who ask the same", system=SYSTEM) | {"fake": {"cached_tokens": 0}}
                await site.ask(body)
            slots = [replica.slot for replica in site.server.gateway.replicas]
            assert {slot.certainty.value for slot in slots if slot is not None} == {"none"}, slots
            async with site.server.asking(asked("once more", system=SYSTEM)) as wire:
                head = (await wire.answer()).head
            assert (head.get("x-headrace-route") or "").startswith("load;")

    in_virtual_time(main)


@pytest.mark.parametrize("seed", range(2))
def test_r08_each_replicas_share_follows_its_speed(seed: int) -> None:
    """Engines at speeds 1, 1 and 0.5, with as much to do as they can."""
    engines = [SPEED, SPEED, SPEED | {"prefill_tps": 5_000}]
    traffic = Traffic({"t": 29.0}, prompt=(200, 1400), output=(2, 6), span_s=30.0)
    outcome = played(traffic, engines, seed=seed)
    tokens: Counter[str] = Counter()
    for each in outcome.asked:
        if each.at_s > traffic.settle_s:
            tokens[each.replica] += each.prompt_tokens
    total = sum(tokens[name] for name in ("p-0", "p-1", "p-2"))
    for name, share in {"p-0": 0.4, "p-1": 0.4, "p-2": 0.2}.items():
        assert tokens[name] / total == pytest.approx(share, rel=0.15), tokens
