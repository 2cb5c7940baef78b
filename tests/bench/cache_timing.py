"""Can a tenant tell by the time to the first token what another has asked? `python -m tests.bench.cache_timing`

Tenant B asks what tenant A had answered from the engine just before, what nobody ever asked, and what it asked itself,
in a random order, all of one length. AUC: the share of pairs in which what nobody asked takes longer, ties counted
half, with DeLong's interval of 95 %. At 0.5 they cannot be told apart; B's own hits, near 1, show that a difference
would be seen. The engine takes the same time for everything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import platform
import random
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engines.commands import free_port
from tests.bench.rig import engine_process
from tests.gateway.supervised import served
from tests.harness import CHAT, Json, config_of

KINDS = ("theirs", "nobody's", "own")
BATCH = 50
"""Questions of each kind that are asked at random."""
WARM = 100
QUESTION = "Please tell me all about {} in a few words."
TOKEN = re.compile(rb'"content": ?"[^"]')
Z95 = 1.959964


class Client:
    """One connection that is kept. key: of its tenant."""

    def __init__(self, url: str, key: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._sock = socket.create_connection((host, int(port)), timeout=30)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"

    def ask(self, question: str) -> tuple[float, str]:
        """Seconds until the first token, and what `x-headrace-cache` said."""
        body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": question}]})
        lines = f"{self._head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        request = (lines + body).encode()
        got, first_s = b"", 0.0
        began_s = time.perf_counter()
        self._sock.sendall(request)
        while not got.endswith(b"0\r\n\r\n"):
            piece = self._sock.recv(65536)
            if not piece:
                raise ConnectionError(got[-200:])
            got += piece
            if not first_s and TOKEN.search(got):
                first_s = time.perf_counter() - began_s
        head = got[: got.index(b"\r\n\r\n")].decode().lower()
        if not head.startswith("http/1.1 200"):
            raise RuntimeError(got[:400])
        return first_s, head.partition("x-headrace-cache: ")[2].partition("\r\n")[0]


def measure(url: str, count: int, chance: random.Random) -> dict[str, list[float]]:
    """Times to the first token by kind, in seconds."""
    a, b = Client(url, "key-for-a"), Client(url, "key-for-b")
    took_s: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(WARM):
        for client in (a, b):
            client.ask(_question())
    while len(took_s["own"]) < count:
        size = min(BATCH, count - len(took_s["own"]))
        asked = [(kind, _question()) for kind in KINDS for _ in range(size)]
        before = [(a if kind == "theirs" else b, question) for kind, question in asked if kind != "nobody's"]
        for client, question in chance.sample(before, len(before)):
            client.ask(question)
        for kind, question in chance.sample(asked, len(asked)):
            first_s, source = b.ask(question)
            if (source == "hit") != (kind == "own"):
                raise RuntimeError(f"a question that is {kind} was answered by {source!r}")
            took_s[kind].append(first_s)
    return took_s


def _question() -> str:
    return QUESTION.format(secrets.token_hex(16))


class Auc(NamedTuple):
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def auc(slower: list[float], quicker: list[float]) -> Auc:
    """The share of pairs in which the first takes longer, and its interval (DeLong, DeLong, Clarke-Pearson 1988)."""
    one, other = np.sort(np.asarray(slower)), np.sort(np.asarray(quicker))
    over = (np.searchsorted(other, one, "left") + np.searchsorted(other, one, "right")) / (2 * len(other))
    under = 1 - (np.searchsorted(one, other, "left") + np.searchsorted(one, other, "right")) / (2 * len(one))
    found = float(over.mean())
    error = math.sqrt(over.var(ddof=1) / len(one) + under.var(ddof=1) / len(other))
    return Auc(found, max(0.0, found - Z95 * error), min(1.0, found + Z95 * error))


def report(took_s: dict[str, list[float]]) -> Json:
    nobodys = took_s["nobody's"]
    theirs, own = (auc(nobodys, took_s[kind]) for kind in ("theirs", "own"))
    return {
        "theirs_against_nobodys": theirs._asdict(),
        "own_against_nobodys": own._asdict(),
        "indistinguishable": theirs.low <= 0.5 <= theirs.high,
        "ttft_us": {
            kind: {name: round(float(np.quantile(times, q)) * 1e6) for name, q in (("p50", 0.5), ("p99", 0.99))}
            for kind, times in took_s.items()
        },
    }


@asynccontextmanager
async def gateway(engine_url: str, embedder: str) -> AsyncIterator[str]:
    keys = [{"name": name, "key": f"key-for-{name}", "tenant": name} for name in ("a", "b")]
    cache: Json = {"enabled": True, "store": "memory", "max_bytes": 1 << 30}
    if embedder != "off":
        cache["semantic"] = {"enabled": True, "embedder": {"kind": embedder}}
    with tempfile.TemporaryDirectory() as folder:
        log = {"access_log": {"format": "json", "path": f"{folder}/access.log"}}
        config = config_of(engine_url, keys=keys, cache=cache, telemetry=log, server={"workers": 1, "drain_s": 2})
        async with served(Path(folder), config, "--log-format", "json") as process:
            await process.ready()
            if embedder != "off":
                await process.said("questions are compared by")
            yield process.url


@asynccontextmanager
async def engine(script: Path | None, delay_s: float) -> AsyncIterator[str]:
    """script: run with a port, a number of chunks and the ms between them; none: the fake engine."""
    if script is None:
        async with engine_process("--ttft", str(delay_s), "--itl", "0", "--output-tokens", "4") as process:
            yield process.url
        return
    port = free_port()
    mock = subprocess.Popen([sys.executable, str(script), str(port), "4", str(delay_s * 1000)])
    try:
        await _answers(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        mock.terminate()
        mock.wait()


async def _answers(port: int) -> None:
    async with asyncio.timeout(10.0):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


async def run(asked: argparse.Namespace) -> Json:
    async with engine(asked.engine, asked.delay_ms / 1000) as url, gateway(url, asked.semantic) as here:
        took_s = await asyncio.to_thread(measure, here, asked.count, random.Random(asked.seed))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    about = {"commit": commit, "machine": platform.processor() or platform.machine(), "command": " ".join(sys.argv[1:])}
    return about | {"count": asked.count, "seed": asked.seed} | report(took_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000, help="calls of each of the three kinds")
    parser.add_argument("--delay-ms", type=float, default=5.0, help="the engine's time to the first token")
    parser.add_argument("--engine", type=Path, help="script of another mock engine: PORT CHUNKS INTERVAL_MS")
    parser.add_argument("--semantic", choices=("off", "static", "minilm"), default="off")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = asyncio.run(run(asked))
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    for name, told in (("A has it, against nobody has it", "theirs"), ("B has it, against nobody has it", "own")):
        print(f"{name}: AUC {Auc(**found[f'{told}_against_nobodys'])}")
    print(f"TTFT in µs: {found['ttft_us']}")
    print("cannot be told apart" if found["indistinguishable"] else "can be told apart")


if __name__ == "__main__":
    main()
