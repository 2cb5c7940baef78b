"""Engines that the gateway runs: found by the guard when it is killed, stopped when it ends."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path

import pytest
import yaml

from engines import leftovers
from engines.memory import resident_bytes
from gateway.config.load import parse_config
from gateway.process.banner import Console
from gateway.process.engine_set import Engines
from tests.gateway.supervised import children, client, command, gone, served

CONFIG = "pools: {p: {engine: {kind: fake}, replicas: 2}}\ndeployments: {m: {variants: {v: {pools: [p]}}}}\n"


@pytest.mark.may_block("reads /proc")
async def test_every_engine_carries_the_mark_and_the_guard_ends_with_the_gateway(tmp_path: Path) -> None:
    tree = {
        "server": {"port": 0, "workers": 1},
        "pools": {"p": {"engine": {"kind": "fake"}}},
        "deployments": {"m": {"variants": {"v": {"pools": ["p"]}}}},
    }
    async with served(tmp_path, tree) as gateway:
        await gateway.ready()
        below = children(gateway.pid)
        mark = leftovers.mark_of(gateway.pid)
        assert [pid for pid in below if command(pid).endswith(f"leftovers.py {mark} ")]
        for pid in gateway.engines():
            assert f"{leftovers.VARIABLE}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        gateway.signal(signal.SIGKILL)
        await gone(below)


@pytest.mark.may_block("starts processes and opens logs")
async def test_one_guard_watches_over_all_and_a_second_start_has_nothing_to_do(tmp_path: Path) -> None:
    engines = Engines(Console("json"), tmp_path)
    config = parse_config(CONFIG)
    effective, fresh = engines.prepare(config)
    assert len(effective.pools["p"].urls) == 2
    await engines.start([], patient=True)
    assert engines._guard is None
    async with asyncio.timeout(20):
        await engines.start(fresh, patient=False)
        guard = engines._guard
        assert guard is not None
        assert engines.prepare(config)[1] == []
        await engines.stop()
    assert leftovers.mark_of(guard.pid) is None
    assert engines._guard is None
    await engines.stop()


@pytest.mark.may_block("reads /proc")
async def test_the_metrics_tell_what_memory_each_engine_holds(tmp_path: Path) -> None:
    tree = {"server": {"port": 0, "workers": 1}, **yaml.safe_load(CONFIG)}
    async with served(tmp_path, tree) as gateway:
        await gateway.ready()
        async with client(gateway.url) as http:
            text = (await http.get("/metrics")).text
        found = re.findall(r"^headrace_engine_memory_bytes\{(.*)\} (\S+)$", text, re.MULTILINE)
        assert len(found) == 2, text
        held = sorted(float(size) for _, size in found)
        assert all('pool="p"' in labels for labels, _ in found)
        actual = sorted(resident_bytes(pid) for pid in gateway.engines())
        assert held == pytest.approx(actual, rel=0.2)
