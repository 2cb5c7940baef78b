"""What the response cache costs of the processor: `python -m tests.bench.cache_speed [--calls 2000] [--rounds 9]`.

Calls: µs of CPU for each of them in a gateway's worker, all of its threads together, without sockets: its clients and
its engine are objects in the same process, and what they take is in every figure. The variants take turns in rounds;
`over_off` is the median over the rounds of what one took more than the same call with the cache off.

Look: how long the semantic tier takes to tell what is near a question, from its text to the score, with --entries kept
questions in one partition: some of them with the vectors of texts, the others with noise added to those.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvloop

from engines.connection import Connection
from engines.http import HttpEngine
from gateway.app import Gateway
from gateway.config import Config
from gateway.http.server import HttpConnection
from gateway.process.worker import _GC_THRESHOLDS
from tests.bench.cache_look import look_us
from tests.harness import CHAT, SSE_HEAD, Json, config_of, framed, whole

KEY = "sk-bench"
CLIENTS = 8
TOKENS = 100
_HEAD: Json = {"id": "chatcmpl-1", "created": 1, "model": "m"}


def _event(delta: Json, finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    body = _HEAD | {"object": "chat.completion.chunk", "choices": [choice]} | more
    return framed(b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode())


USAGE: Json = {"prompt_tokens": 20, "completion_tokens": TOKENS, "total_tokens": 20 + TOKENS}
FIRST = SSE_HEAD + _event({"role": "assistant", "content": " token"})
TOKEN = _event({"content": " token"})
LAST = _event({}, "stop") + _event({}, choices=[], usage=USAGE) + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
MESSAGE: Json = {"role": "assistant", "content": "word " * 20}
ANSWER = whole(
    json.dumps(
        _HEAD
        | {"object": "chat.completion", "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}]}
        | {"usage": USAGE}
    ).encode()
)


class Wire(asyncio.Transport):
    """One end of a connection that is none: what is written goes to a function."""

    def __init__(self, written: Any) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.write = written  # type: ignore[method-assign]
        self._closed = False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_reading(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True

    abort = close


async def engine(self: HttpEngine, _limits: object) -> Connection:
    """A connection to an engine that answers at once, a token in each turn of the loop; in place of `_connect`."""
    loop = asyncio.get_running_loop()
    connection = Connection(loop, self._outbox, self._keep)

    def written(data: bytes) -> None:
        if b'"stream":true' in data:
            loop.call_soon(told, 0)
        else:
            loop.call_soon(connection.data_received, ANSWER)

    def told(count: int) -> None:
        if count == TOKENS:
            connection.data_received(LAST)
            return
        connection.data_received(TOKEN if count else FIRST)
        loop.call_soon(told, count + 1)

    connection.connection_made(Wire(written))
    return connection


@dataclass
class Variant:
    """anew: each call asks what nobody has asked."""

    name: str
    gateway: Gateway
    stream: bool
    anew: bool
    asked: int = 0

    def request(self) -> bytes:
        self.asked += self.anew
        text = f"Write one short sentence about thing {self.stream:d}{self.asked:09d}, please."
        body: Json = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 64}
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        data = json.dumps(body, separators=(",", ":")).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
        return b"%bcontent-length: %d\r\n\r\n%b" % (head.encode(), len(data), data)

    async def cpu_us(self, calls: int) -> float:
        """For each of so many calls, by a few clients at once; those of the clients are made beforehand."""
        loop = asyncio.get_running_loop()
        requests = iter([self.request() for _ in range(calls)])
        done, left = loop.create_future(), [calls]
        end = b"0\r\n\r\n" if self.stream else b"}"

        def client() -> None:
            connection = HttpConnection(self.gateway.server)

            def written(data: bytes) -> None:
                if data.startswith(b"HTTP/1.1") and not data.startswith(b"HTTP/1.1 200"):
                    done.set_exception(RuntimeError(data.decode()))
                elif data.endswith(end):
                    left[0] -= 1
                    following = next(requests, None)
                    if following is not None:
                        loop.call_soon(connection.data_received, following)
                    else:
                        loop.call_soon(connection.connection_lost, None)
                        if not left[0] and not done.done():
                            done.set_result(None)

            connection.connection_made(Wire(written))
            connection.data_received(next(requests))

        gc.collect()
        began_s = time.process_time()
        for _ in range(min(CLIENTS, calls)):
            client()
        await done
        return (time.process_time() - began_s) / calls * 1e6


@asynccontextmanager
async def variants(store: str) -> AsyncIterator[list[Variant]]:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        cached: Json = {"enabled": True, "store": store, "path": f"{folder}/cache.sqlite", "max_bytes": 1 << 29}
        found = []
        for state, cache in (("off", {}), ("on", cached)):
            config = config_of(
                "http://127.0.0.1:9",
                keys=[{"name": "bench", "tenant": "bench", "key": KEY}],
                telemetry={"access_log": {"format": "json", "path": f"{folder}/{state}.log"}},
                cache=cache,
            )
            gateway = Gateway(Config.model_validate(config))
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
            await gateway.start(sock)
            stack.push_async_callback(gateway.aclose)
            for form in ("json", "stream"):
                if state == "off":
                    found.append(Variant(f"off, {form}", gateway, form == "stream", anew=True))
                else:
                    found.append(Variant(f"miss, {form}", gateway, form == "stream", anew=True))
                    found.append(Variant(f"hit, {form}", gateway, form == "stream", anew=False))
        yield found


async def calls_us(calls: int, rounds: int, store: str, chance: random.Random) -> Json:
    HttpEngine._connect = engine  # type: ignore[assignment,method-assign]
    async with variants(store) as found:
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        for variant in found:
            await variant.cpu_us(CLIENTS * 20)
        took: dict[str, list[float]] = {variant.name: [] for variant in found}
        for _ in range(rounds):
            for variant in chance.sample(found, len(found)):
                took[variant.name].append(await variant.cpu_us(calls))
    report: Json = {}
    for name, times in took.items():
        off = took[f"off, {name.partition(', ')[2]}"]
        report[name] = {
            "median_us": round(statistics.median(times), 1),
            "over_off_us": round(statistics.median(a - b for a, b in zip(times, off, strict=True)), 1),
            "ratio_to_off": round(statistics.median(a / b for a, b in zip(times, off, strict=True)), 3),
        }
    return report


async def run(asked: argparse.Namespace) -> Json:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    found: Json = {
        "commit": commit,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "command": " ".join(["python -m tests.bench.cache_speed", *sys.argv[1:]]),
    }
    if asked.calls:
        found["calls"] = await calls_us(asked.calls, asked.rounds, asked.store, random.Random(asked.seed))
    for kind in asked.embedder if asked.questions else ():
        found[f"look, {kind}"] = await look_us(kind, asked.entries, asked.questions, asked.threads, asked.seed)
    found["max_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=2000, help="of each variant in a round; 0: none")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--store", choices=("memory", "sqlite"), default="memory")
    parser.add_argument("--questions", type=int, default=1000, help="that are looked up; 0: none")
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--embedder", choices=("static", "minilm"), nargs="+", default=["static", "minilm"])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="to build the index with")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = uvloop.run(run(asked))
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    for name, figures in found.items():
        print(f"{name}: {figures}" if name != "calls" else "")
    for name, figures in found.get("calls", {}).items():
        print(
            f"{name:>14} {figures['median_us']:>8} µs, {figures['over_off_us']:+} over off, {figures['ratio_to_off']}"
        )


if __name__ == "__main__":
    main()
