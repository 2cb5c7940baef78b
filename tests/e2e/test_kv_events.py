"""What is known of a real vLLM's KV cache against what it says itself: `cached_tokens` of every request.

The cache is small, so that most of what is computed is soon evicted; messages get lost; the engine is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import zmq
import zmq.asyncio

from engines.http import Endpoint, HttpEngine
from engines.kv_events.sockets import Sockets
from engines.kv_events.sources import Source
from gateway.clock import RealClock
from gateway.kv_watch import Asked, Configured, Finder, KvWatch, SlotSink
from gateway.prompts.keys import chain, first_seed
from router.prefix import Certainty, Prefix, PrefixIndex
from tests.e2e.real_engines import Installation, installation, needs_memory

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

BLOCK = 32
"""The smallest that vLLM has on a CPU."""
CACHE_BLOCKS = 96
START_S = 300.0
VOCABULARY = range(100, 40_000)
RIGHT_SHARE = 0.99
LEAST_SHARE = 0.97
"""Of requests while messages get lost. Who asks again before it is noticed, within some 0.3 s, is predicted wrong."""
FLAGS = (
    "--served-model-name=m --host=127.0.0.1 --dtype=float32 --enforce-eager --max-model-len=1024 --max-num-seqs=8 "
    f"--enable-prompt-tokens-details --block-size={BLOCK} --num-gpu-blocks-override={CACHE_BLOCKS}"
).split()


@dataclass
class Vllm:
    """A process that is killed and started again at the same ports."""

    place: Installation
    folder: Path
    process: asyncio.subprocess.Process | None = None
    ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(3)])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    async def start(self) -> None:
        events = (
            '{"enable_kv_cache_events":true,"publisher":"zmq","buffer_steps":10000,'
            f'"endpoint":"tcp://*:{self.ports[1]}","replay_endpoint":"tcp://*:{self.ports[2]}"}}'
        )
        quiet = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        with (self.folder / "vllm.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(str(self.place.python), "-m", "vllm.entrypoints.openai.api_server"),
                *(f"--model={self.place.model}", f"--port={self.ports[0]}", *FLAGS, "--kv-events-config", events),
                stdout=log,
                stderr=log,
                env={**os.environ, **quiet, "VLLM_CPU_KVCACHE_SPACE": "1"},
                start_new_session=True,
            )
        async with asyncio.timeout(START_S), httpx.AsyncClient(trust_env=False) as http:
            while True:
                assert self.process.returncode is None, (self.folder / "vllm.log").read_text()[-4000:]
                with contextlib.suppress(httpx.HTTPError):
                    if (await http.get(f"{self.url}/health")).status_code == 200:
                        return
                await asyncio.sleep(0.5)

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()


class Relay:
    """Between the engine and the gateway: it passes on what is published, and loses some."""

    def __init__(self, engine: Vllm, lose: Callable[[], bool]) -> None:
        self._lose = lose
        self.lost = self.passed = 0
        self._context = zmq.asyncio.Context()
        self._sub, self._pub = self._context.socket(zmq.SUB), self._context.socket(zmq.PUB)
        self._sub.subscribe(b"")
        self._sub.connect(f"tcp://127.0.0.1:{engine.ports[1]}")
        port = self._pub.bind_to_random_port("tcp://127.0.0.1")
        self.source = Source(f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{engine.ports[2]}")

    async def run(self) -> None:
        try:
            while True:
                frames = await self._sub.recv_multipart()
                if self._lose():
                    self.lost += 1
                else:
                    self.passed += 1
                    await self._pub.send_multipart(frames)
        finally:
            self._sub.close(linger=0)
            self._pub.close(linger=0)
            self._context.term()


class Known:
    """What a gateway knows of the replica."""

    def __init__(self, finder: Finder, name: str) -> None:
        self.index = PrefixIndex()
        self.slot = self.index.open()
        sink = SlotSink(self.index, self.slot)
        rng = random.Random(1)
        self.watch = KvWatch(name, sink, finder, Sockets(), clock=RealClock(), rng=rng)

    def cached_tokens(self, prompt: list[int], salt: str) -> int:
        """The prediction. An engine computes a prompt's last token anew in any case."""
        data = b"".join(token.to_bytes(4, "little") for token in prompt)
        keys = chain(data, 4 * BLOCK, first_seed("", salt.encode()))
        held = self.index.match(Prefix(keys, BLOCK))[self.slot.bit]
        return min(held, (len(prompt) - 1) // BLOCK * BLOCK)

    async def exact(self) -> None:
        async with asyncio.timeout(30.0):
            while self.slot.certainty is not Certainty.EXACT or not self.watch.exact:
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def knowing(finder: Finder, name: str) -> AsyncIterator[Known]:
    known = Known(finder, name)
    known.watch.start()
    try:
        yield known
    finally:
        await known.watch.aclose()


@dataclass
class Tally:
    """within: how often the prediction was within a block of the truth; equal: how often it was the truth."""

    title: str
    requests: int = 0
    within: int = 0
    equal: int = 0
    cached_tokens: int = 0
    prompt_tokens: int = 0
    wrong: list[tuple[int, int]] = field(default_factory=list)

    def add(self, predicted: int, cached: int, prompt: int) -> None:
        self.requests += 1
        self.equal += predicted == cached
        self.cached_tokens += cached
        self.prompt_tokens += prompt
        if abs(predicted - cached) <= BLOCK:
            self.within += 1
        else:
            self.wrong.append((predicted, cached))

    def __str__(self) -> str:
        equal, hits = self.equal / self.requests, self.cached_tokens / self.prompt_tokens
        return (
            f"{self.title}: {self.requests} requests, within a block {self.share:.1%}, equal {equal:.1%}, "
            f"hit rate {hits:.1%}, wrong (predicted, cached): {self.wrong[:8]}"
        )

    @property
    def share(self) -> float:
        return self.within / self.requests


class Conversations:
    """Prompts that share beginnings: a few long ones, what follows them, and an end of their own; some with a salt."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._roots = [self._tokens(rng.randint(100, 400)) for _ in range(6)]
        self._open: list[tuple[list[int], str]] = []

    def next(self) -> tuple[list[int], str]:
        rng = self._rng
        if self._open and rng.random() < 0.6:
            place = rng.randrange(len(self._open))
            prompt, salt = self._open[place]
            prompt = [*prompt, *self._tokens(rng.randint(5, 120))]
            self._open[place] = (prompt, salt)
        else:
            salt = "secret" if rng.random() < 0.15 else ""
            prompt = [*rng.choice(self._roots), *self._tokens(rng.randint(1, 150))]
            self._open = [*self._open[-7:], (prompt, salt)]
        if len(prompt) > 800:
            self._open = [one for one in self._open if one[0] is not prompt]
        return prompt, salt

    def pause_s(self) -> float:
        return 0.01 + self._rng.expovariate(1 / 0.1)

    def _tokens(self, count: int) -> list[int]:
        return self._rng.choices(VOCABULARY, k=count)


async def asked(http: httpx.AsyncClient, prompt: list[int], salt: str) -> int:
    body = {"model": "m", "prompt": prompt, "max_tokens": 2, "temperature": 0, "ignore_eos": True}
    answer = await http.post("/v1/completions", json=body | ({"cache_salt": salt} if salt else {}))
    assert answer.status_code == 200, answer.text
    details = answer.json()["usage"]["prompt_tokens_details"]
    return int(details["cached_tokens"]) if details else 0


async def compare(title: str, engine: Vllm, known: Known, requests: int, prompts: Conversations) -> Tally:
    """One request after the other, with a client's pause between them, each predicted at the moment that it is sent."""
    tally = Tally(title)
    async with httpx.AsyncClient(base_url=engine.url, trust_env=False, timeout=60.0) as http:
        for _ in range(requests):
            await asyncio.sleep(prompts.pause_s())
            prompt, salt = prompts.next()
            predicted = known.cached_tokens(prompt, salt)
            tally.add(predicted, await asked(http, prompt, salt), len(prompt))
    print(tally, known.watch)
    return tally


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_what_is_known_of_a_cache_is_what_the_engine_finds_in_it(tmp_path: Path) -> None:
    """Evictions, a late reader, lost messages and a killed engine included: ≥ 99 % of predictions within one block."""
    needs_memory(5.0)
    asyncio.run(_known(tmp_path))


async def _known(folder: Path) -> None:
    engine = Vllm(installation(), folder)
    http = HttpEngine(Endpoint("real", engine.url))
    prompts = Conversations(random.Random(7))
    try:
        await engine.start()
        async with knowing(Asked(http, engine.url), "real") as known:
            await known.exact()
            tallies = [await compare("evictions", engine, known, 400, prompts)]
            async with knowing(Asked(http, engine.url), "late") as late:
                await late.exact()
                tallies.append(await compare("a late reader", engine, late, 100, prompts))
            tallies.append(await _lossy(engine, prompts))
            await engine.kill()
            await engine.start()
            await known.exact()
            tallies.append(await compare("killed and restarted", engine, known, 200, prompts))
    finally:
        await http.aclose()
        await engine.kill()
    told = "\n".join(map(str, tallies))
    assert sum(tally.within for tally in tallies) >= RIGHT_SHARE * sum(tally.requests for tally in tallies), told
    assert all(tally.share >= LEAST_SHARE for tally in tallies), told


async def _lossy(engine: Vllm, prompts: Conversations) -> Tally:
    """One message in twenty gets lost, half of them ten in a row."""
    rng = random.Random(3)
    burst = 0

    def lose() -> bool:
        nonlocal burst
        burst = 10 if burst == 0 and rng.random() < 0.0025 else max(0, burst - 1)
        return burst > 0 or rng.random() < 0.025

    relay = Relay(engine, lose)
    relaying = asyncio.get_running_loop().create_task(relay.run())
    try:
        async with knowing(Configured([relay.source]), "lossy") as known:
            await known.exact()
            tally = await compare("lost messages", engine, known, 300, prompts)
            print(f"{relay.lost} of {relay.lost + relay.passed} messages lost")
            return tally
    finally:
        relaying.cancel()
        await asyncio.gather(relaying, return_exceptions=True)
