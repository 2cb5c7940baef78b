"""A22: ten thousand keys do not make a scrape long."""

from __future__ import annotations

import itertools

import pytest

from gateway.keys import hash_key
from loadtest import Ask, Load, Target, chat_asks
from tests.bench.rig import cpu_s, engine_process, gateway_process, long_run, tree
from tests.gateway.supervised import client
from tests.harness import metrics_in

LIMIT_S = 240.0
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(LIMIT_S + 30)]
SCRAPES = 20


def test_ten_thousand_keys_make_under_5000_series_and_a_scrape_takes_under_100_ms() -> None:
    """A22, summed over two workers; the scrape's time is the CPU time of the gateway's processes."""
    long_run(_ten_thousand_keys(), LIMIT_S)


async def _ten_thousand_keys() -> None:
    names = [f"user{number}" for number in range(10_000)]
    keys = [{"name": name, "tenant": name, "hash": hash_key(f"sk-{name}", "")} for name in names]
    async with engine_process() as engine, gateway_process(engine.url, workers=2, keys=keys) as gateway:
        bodies = itertools.chain(
            itertools.islice(chat_asks("m", stream=False, max_tokens=1), 8000),
            (next(chat_asks(f"unknown-{n}", stream=False, prompt_words=2)) for n in range(2000)),
        )
        asks = (Ask(ask.body, f"sk-{name}") for ask, name in zip(bodies, names, strict=True))
        found = await Load(Target(gateway.url), asks).closed(32)
        assert sorted(set(found.status)) == [200, 404]
        pids = tree(gateway.pid)
        async with client(gateway.url) as http:
            before_s = cpu_s(pids)
            for _ in range(SCRAPES):
                text = (await http.get("/metrics")).text
            scrape_s = (cpu_s(pids) - before_s) / SCRAPES
    metrics = metrics_in(text)
    print(f"{len(metrics)} series, {scrape_s * 1e3:.1f} ms of CPU a scrape")
    assert sum(value for name, value in metrics.items() if name.startswith("headrace_requests_total")) == 10_000
    assert metrics["headrace_workers"] == 2
    assert len(metrics) < 5000
    assert scrape_s < 0.1
