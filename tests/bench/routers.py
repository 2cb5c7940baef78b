"""The engines and routers of `tests.bench.routing`, each in processes of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.bench.conversations import ask
from tests.bench.rig import cpu_s, tree
from tests.gateway.supervised import served
from tests.harness import Json

START_S = 400.0
END_S = 20.0
HELLO = [{"role": "user", "content": "Hello."}]
FLAGS = "--dtype=float32 --enforce-eager --enable-prompt-tokens-details --max-num-seqs=32"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


# Engines


@dataclass(frozen=True, slots=True)
class Vllm:
    """How vLLM is started on a CPU. kv_blocks: so small a KV cache that not all prompts fit into each."""

    python: str
    model: str
    name: str
    block_tokens: int
    kv_blocks: int
    max_tokens: int

    def command(self, port: int) -> list[str]:
        events = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": f"tcp://*:{free_port()}",
            "replay_endpoint": f"tcp://*:{free_port()}",
        }
        return [
            *(self.python, "-m", "vllm.entrypoints.openai.api_server", "--host=127.0.0.1", f"--port={port}"),
            *(f"--model={self.model}", f"--served-model-name={self.name}", f"--max-model-len={self.max_tokens}"),
            *(f"--block-size={self.block_tokens}", f"--num-gpu-blocks-override={self.kv_blocks}", *FLAGS.split()),
            f"--kv-events-config={json.dumps(events)}",
        ]


@dataclass(frozen=True, slots=True)
class Counters:
    """Of one engine, so far. Prefix figures are tokens; cpu_s is 0.0 of an engine that was not started here."""

    hits: float
    queries: float
    requests: float
    cpu_s: float

    def since(self, before: Counters) -> Counters:
        return Counters(
            self.hits - before.hits,
            self.queries - before.queries,
            self.requests - before.requests,
            self.cpu_s - before.cpu_s,
        )


@dataclass(frozen=True, slots=True)
class Engine:
    """pid: 0 for one that was not started here."""

    url: str
    pid: int = 0

    async def counters(self) -> Counters:
        async with _client(self.url) as http:
            page = (await http.get("/metrics")).text

        def total(name: str) -> float:
            found = re.findall(rf"^vllm:{name}_total(?:{{.*}})? (\S+)$", page, re.MULTILINE)
            return sum(map(float, found))

        spent_s = cpu_s(tree(self.pid)) if self.pid else 0.0
        return Counters(total("prefix_cache_hits"), total("prefix_cache_queries"), total("request_success"), spent_s)

    async def emptied(self, model: str) -> bool:
        """Empty its prefix cache. False: it does not let anybody do that (vLLM: only with VLLM_SERVER_DEV_MODE=1)."""
        async with _client(self.url) as http, asyncio.timeout(30.0):
            while True:
                answer = await http.post("/reset_prefix_cache")
                if answer.status_code != 200:
                    return False
                if not answer.content or answer.json().get("success", True):
                    break
                await asyncio.sleep(0.1)
            await ask(http, model, HELLO, 1)  # only with its next step does it tell that it is empty
            return True


@asynccontextmanager
async def started(how: Vllm, count: int, log: Path) -> AsyncIterator[list[Engine]]:
    """Started one after the other, which takes less than all at once on few cores."""
    quiet = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    one_thread = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    env = {**os.environ, **quiet, **one_thread, "VLLM_SERVER_DEV_MODE": "1"}
    async with AsyncExitStack() as stack:
        found: list[Engine] = []
        for number in range(count):
            port = free_port()
            process = _process(how.command(port), log / f"engine-{number}.log", env)
            engine = Engine(f"http://127.0.0.1:{port}", (await stack.enter_async_context(process)).pid)
            await _reached(_healthy(engine.url), START_S, f"{engine.url}: see {log}")
            found.append(engine)
        yield found


def _healthy(url: str) -> Callable[[], Awaitable[bool]]:
    async def healthy() -> bool:
        async with _client(url) as http:
            return (await http.get("/health")).status_code == 200

    return healthy


# Routers


@dataclass
class Router:
    """A router that runs.

    exact:  replicas whose KV cache Headrace knows exactly, when the load begins; None: it is not Headrace.
    log:    Headrace's access log, whole when it has ended; None also where its policy asks for no prefixes.
    """

    name: str
    url: str
    exact: int | None = None
    log: Path | None = None


@dataclass(frozen=True, slots=True)
class Routers:
    """How each is started.

    peers:  paths of the executables of smg and vllm-router.
    model:  folder with the tokenizer; empty: Headrace reads prompts by bytes.
    """

    name: str
    model: str
    peers: dict[str, str]
    folder: Path
    runs: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def running(self, name: str, urls: Sequence[str]) -> AsyncIterator[Router]:
        """Started anew, and ready: it has passed on one small request."""
        self.runs.append(name)
        folder = self.folder / f"{len(self.runs):03}-{name}"
        folder.mkdir(parents=True)
        start = self._peer if name in self.peers else self._headrace
        async with start(name, urls, folder) as router:
            await _reached(self._answers(router.url), 60.0, f"{name}: see {folder}")
            yield router

    def _answers(self, url: str) -> Callable[[], Awaitable[bool]]:
        async def answers() -> bool:
            async with _client(url) as http:
                return not (await ask(http, self.name, HELLO, 1)).error

        return answers

    @asynccontextmanager
    async def _peer(self, name: str, urls: Sequence[str], folder: Path) -> AsyncIterator[Router]:
        port = free_port()
        flags = ("--host=127.0.0.1", f"--port={port}", f"--prometheus-port={free_port()}", "--policy=cache_aware")
        launch = ("launch",) if name == "smg" else ()
        command = [self.peers[name], *launch, *flags, "--worker-urls", *urls]
        async with _process(command, folder / "log", {**os.environ, "NO_PROXY": "*"}):
            yield Router(name, f"http://127.0.0.1:{port}")

    @asynccontextmanager
    async def _headrace(self, name: str, urls: Sequence[str], folder: Path) -> AsyncIterator[Router]:
        log = folder / "access.log"
        async with served(folder, self._config(name, urls, log), "--log-format", "json") as gateway:
            await gateway.ready()
            router = Router(name, gateway.url, log=log if name.startswith("headrace") else None)
            with contextlib.suppress(TimeoutError):
                wanted = 0 if name == "headrace-predicted" else len(urls)
                await _reached(lambda: _knows(router, wanted), 10.0, name)
            yield router

    def _config(self, name: str, urls: Sequence[str], log: Path) -> Json:
        """`headrace` and `headrace-predicted` have the default policy; any other name is that of a policy."""
        engine: Json = {"kind": "vllm", "kv_events": {"mode": "off" if name == "headrace-predicted" else "auto"}}
        variant: Json = {"pools": ["p"]} | ({"tokenizer": self.model} if self.model else {})
        policy = {} if name.startswith("headrace") else {"policy": name}
        return {
            "server": {"port": 0, "workers": 1, "drain_s": 2},
            "pools": {"p": {"urls": list(urls), "engine": engine}},
            "deployments": {self.name: {"variants": {"v": variant}} | policy},
            "telemetry": {"access_log": {"format": "json", "path": str(log)}},
        }


async def _knows(router: Router, wanted: int) -> bool:
    async with _client(router.url) as http:
        page = (await http.get("/metrics")).text
    found = re.findall(r'^headrace_prefix_replicas{.*certainty="exact".*} (\S+)$', page, re.MULTILINE)
    router.exact = int(sum(map(float, found)))
    return router.exact == wanted


# Processes


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=30.0, trust_env=False)


async def _reached(check: Callable[[], Awaitable[bool]], within_s: float, what: str) -> None:
    """Wait until `check` is true and raises nothing of httpx's.

    Raises:
        TimeoutError: it was not, within `within_s`.
    """
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        with contextlib.suppress(httpx.HTTPError):
            if await check():
                return
        await asyncio.sleep(0.3)
    raise TimeoutError(f"not within {within_s:g} s: {what}")


@asynccontextmanager
async def _process(command: list[str], log: Path, env: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """In a process group of its own, all of which ends with the block."""
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file, env=env, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
