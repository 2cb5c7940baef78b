"""Real engines in one set of pools, all started by the gateway: streams, hang-ups, and what a killed gateway leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from engines.identify import ModelCard
from engines.kinds import SERVERS
from engines.probe import probe
from tests.e2e.real_engines import (
    NEEDED_GB,
    config,
    engine_url,
    installation,
    needs_memory,
    ready,
    transformers_pool,
    vllm_pool,
    whole_stream,
)
from tests.gateway.supervised import Served, command, descendants, gone, served

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ABORT_S = 0.25
QUESTION = "Tell me a long story about the sea."
KINDS = ("vllm", "llamacpp", "transformers", "fake")


def test_four_kinds_in_one_set_of_pools_stream_to_the_openai_client_and_stop_when_it_hangs_up(tmp_path: Path) -> None:
    """A01 on real engines: each engine's own metrics show the end within 250 ms of the hang-up."""
    needs_memory(NEEDED_GB)
    place = installation()
    pools = {
        "vllm": vllm_pool(place),
        "transformers": transformers_pool(place),
        "llamacpp": {"engine": {"kind": "llamacpp", "model": "smollm2-135m-instruct", "slots": 2, "threads": 2}},
        "fake": {"engine": {"kind": "fake", "args": ["--itl=0.02"]}},
    }
    asyncio.run(_four_kinds(tmp_path, config(pools)))


async def _four_kinds(folder: Path, tree: dict[str, Any]) -> None:
    async with served(folder, tree, "--log-format", "pretty") as gateway:
        await ready(gateway)
        url = f"{gateway.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=120.0) as client:
            for kind in KINDS:
                usage = await whole_stream(client, kind)
                assert usage.completion_tokens > 0, kind
            for kind in KINDS:
                took_s = await _abort(client, kind, _WATCHES[kind](engine_url(gateway, kind)))
                print(f"{kind}: idle {1000 * took_s:.0f} ms after the hang-up")
                assert took_s <= ABORT_S, kind
        await _probed(gateway, tree)


async def _abort(client: openai.AsyncOpenAI, model: str, busy: Callable[[], Awaitable[bool]]) -> float:
    """How long after the client's hang-up the engine's answer had come that it was idle, in seconds."""
    stream = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": QUESTION}], stream=True, max_tokens=800, temperature=0
    )
    seen = 0
    async for chunk in stream:
        seen += bool(chunk.choices and chunk.choices[0].delta.content)
        if seen >= 3:
            break
    assert await busy(), f"{model} is not busy while it streams"
    began_s = time.monotonic()
    await stream.close()
    while await busy():
        assert time.monotonic() - began_s < 10.0, f"{model} is still busy"
    return time.monotonic() - began_s


def _by_metric(name: str) -> Callable[[str], Callable[[], Awaitable[bool]]]:
    def watch(url: str) -> Callable[[], Awaitable[bool]]:
        async def busy() -> bool:
            async with httpx.AsyncClient(trust_env=False, timeout=10.0) as http:
                page = (await http.get(f"{url}/metrics")).text
            values = [float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name)]
            assert values, f"no {name} at {url}"
            return sum(values) > 0

        return busy

    return watch


def _by_cpu(url: str) -> Callable[[], Awaitable[bool]]:
    """`transformers serve` tells nothing of its load: busy is who uses most of a core for 50 ms."""
    port = url.rpartition(":")[2]
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    pid = next(one for one in pids if "transformers.cli" in command(one) and f"--port {port}" in command(one))

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    async def busy() -> bool:
        before, began_s = ticks(), time.monotonic()
        await asyncio.sleep(0.05)
        used_s = (ticks() - before) / os.sysconf("SC_CLK_TCK")
        return used_s > 0.5 * (time.monotonic() - began_s)

    return busy


def _watch_by_metric(kind: str) -> Callable[[str], Callable[[], Awaitable[bool]]]:
    load = SERVERS[kind].load
    assert load is not None
    return _by_metric(load.running)


_WATCHES = {kind: _watch_by_metric(kind) if SERVERS[kind].load else _by_cpu for kind in KINDS}


async def _probed(gateway: Served, tree: dict[str, Any]) -> None:
    """The probe recognizes each of them, and finds the version that the table says was tested."""
    for kind in KINDS:
        model = tree["pools"][kind]["engine"]["model"] if kind == "transformers" else None
        report = await probe(engine_url(gateway, kind), model=model)
        print(f"{kind}: {report}")
        assert (report.server, report.kind) == (kind, kind)
        for ability in ("chat", "streaming", "usage in streams"):
            assert report.abilities[ability].able, (kind, ability, report.abilities[ability])
        assert report.abilities["tokenize"].able is SERVERS[kind].tokenize, kind
        if kind == "vllm":
            assert report.version == SERVERS[kind].tested
            assert report.models == [ModelCard("vllm", 1024)]


def test_nothing_of_vllm_outlives_a_gateway_that_is_killed(tmp_path: Path) -> None:
    """vLLM's EngineCore and workers outlive their server's death by SIGKILL; the gateway's guard ends them."""
    needs_memory(6.0)
    asyncio.run(_killed(tmp_path, config({"vllm": vllm_pool(installation())})))


async def _killed(folder: Path, tree: dict[str, Any]) -> None:
    async with served(folder, tree, "--log-format", "pretty") as gateway:
        await ready(gateway)
        below = descendants(gateway.pid)
        names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in below]
        assert "VLLM::EngineCor" in names, names
        gateway.signal(signal.SIGKILL)
        await gone(below)
