"""Two gateways over HTTP, a real Valkey between them, and fake engines behind both (R06)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.harness import CHAT, Server, chat, config_of, engine_running, serving, settled
from tests.valkey import valkey_running


def others(server: Server) -> list[float]:
    return [replica.load.others_in_flight for replica in server.gateway.replicas]


@pytest.mark.parametrize("policy", ["marginal_latency", "least_requests"])
async def test_r06_what_one_gateway_sent_the_other_sees(policy: str) -> None:
    async with AsyncExitStack() as stack:
        valkey = await stack.enter_async_context(valkey_running())
        one, two = [await stack.enter_async_context(engine_running()) for _ in range(2)]
        redis, pool = {"redis": {"url": valkey.url, "timeout_s": 0.5}}, {"scrape": {"every_s": None}}
        first = await stack.enter_async_context(serving(config_of(one, pool=pool) | redis))
        second = await stack.enter_async_context(serving(config_of(one, two, pool=pool, policy=policy) | redis))
        one.hold()
        two.hold()
        held = [asyncio.create_task(first.post(CHAT, chat())) for _ in range(6)]
        await one.arrived(6)
        await settled(lambda: [] if others(second) == [6.0, 0.0] else [others(second)], "not seen", within_s=8.0)
        held += [asyncio.create_task(second.post(CHAT, chat("word " * 2000))) for _ in range(2)]
        await two.arrived(2)
        metrics = await second.metrics()
        assert metrics["headrace_peers"] == 1.0
        assert metrics['headrace_peers_degraded{place="redis"}'] == 0.0
        valkey.freeze()
        await settled(lambda: [] if others(second) == [0.0, 0.0] else [others(second)], "stays", within_s=4.0)
        assert second.gateway.replicas[0].breaker.allows(0.0)
        one.release()
        two.release()
        assert [answer.status_code for answer in await asyncio.gather(*held)] == [200] * 8
        assert (await second.post(CHAT, chat())).status_code == 200  # nobody waits for it
        valkey.thaw()
