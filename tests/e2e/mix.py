"""Traffic in which everything that can happen to a request happens, at random but the same for the same seed."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from loadtest import Ask
from tests.bench.rig import EngineProcess, engine_process, gateway_process
from tests.gateway.supervised import Served
from tests.harness import Json, chat, metrics_in

REPLICAS = 16
"""So many addresses of one engine that a breaker that opens leaves enough others."""
PATIENT_S = 0.3
"""The gateway waits this long for an engine's first and next byte."""
UNDER_WAY = ("headrace_in_flight", "headrace_replica_in_flight", "headrace_client_connections")


FLAGS = ("--host", "0.0.0.0", "--ttft", "0.005", "--itl", "0.002", "--jitter", "0.5", "--context-tokens", "100000")
"""Of a quick engine that `addresses` are of."""
TIMEOUTS = {"ttft_s": PATIENT_S, "idle_s": PATIENT_S, "total_s": 30.0}
"""Of a gateway that soon loses patience."""


def addresses(engine: EngineProcess) -> list[str]:
    port = engine.url.rpartition(":")[2]
    return [f"http://127.0.0.{last}:{port}" for last in range(1, REPLICAS + 1)]


@asynccontextmanager
async def engine_with_gateway(workers: int, **more: Any) -> AsyncIterator[tuple[EngineProcess, Served]]:
    """A quick engine under many addresses, and a gateway that soon loses patience with it."""
    async with (
        engine_process(*FLAGS) as engine,
        gateway_process(*addresses(engine), workers=workers, timeouts=TIMEOUTS, **more) as gateway,
    ):
        yield engine, gateway


def mixed_asks(seed: int, weights: dict[str, float]) -> Iterator[Ask]:
    """Endless requests of the kinds in `KINDS`, as often as `weights` says."""
    rng = random.Random(seed)
    names, shares = list(weights), list(weights.values())
    while True:
        yield KINDS[rng.choices(names, shares)[0]](rng)


def _ask(rng: random.Random, stream: bool, fake: Json | None = None, tokens: int | None = None) -> Json:
    body = chat(f"Question {rng.random()}: " + "word " * rng.randrange(5, 60), stream=stream)
    return body | {"max_tokens": tokens or rng.randrange(4, 48)} | ({"fake": fake} if fake else {})


def _bytes(body: Json) -> bytes:
    return json.dumps(body).encode()


def _stream(rng: random.Random) -> Ask:
    return Ask(_bytes(_ask(rng, stream=True)))


def _whole(rng: random.Random) -> Ask:
    return Ask(_bytes(_ask(rng, stream=False)))


def _hang_up(rng: random.Random) -> Ask:
    body = _ask(rng, stream=rng.random() < 0.7, fake={"output_tokens": 200}, tokens=200)
    return Ask(_bytes(body), hang_up_after_s=rng.random() * 0.1)


def _engine_error(rng: random.Random) -> Ask:
    status = rng.choice((400, 404, 422, 429, 500, 503))
    return Ask(_bytes(_ask(rng, stream=rng.random() < 0.5, fake={"status": status})))


def _engine_death(rng: random.Random) -> Ask:
    fake: Json = {"die_after": rng.randrange(0, 6), "die_how": rng.choice(("rst", "fin"))}
    return Ask(_bytes(_ask(rng, stream=rng.random() < 0.7, fake=fake, tokens=12)))


def _engine_hang(rng: random.Random) -> Ask:
    return Ask(_bytes(_ask(rng, stream=rng.random() < 0.7, fake={"hang": rng.choice(("before", "after", "mid"))})))


def _nonsense(rng: random.Random) -> Ask:
    broken = rng.choice(("bad-json", "no-done", "no-terminator", "wrong-length", "bad-chunk", "error-200"))
    return Ask(_bytes(_ask(rng, stream=rng.random() < 0.7, fake={"malformed": broken})))


def _refused(rng: random.Random) -> Ask:
    body = rng.choice((b"{nonsense", _bytes(_ask(rng, stream=True) | {"model": "unknown"}), b"[]", b"{}"))
    return Ask(body, key="sk-wrong" if rng.random() < 0.3 else None)


def _slow_reader(rng: random.Random) -> Ask:
    return Ask(_bytes(_ask(rng, stream=True, fake={"itl": 0.0, "output_tokens": 400}, tokens=400)), read_pause_s=0.002)


KINDS: dict[str, Callable[[random.Random], Ask]] = {
    "stream": _stream,
    "whole": _whole,
    "hang_up": _hang_up,
    "engine_error": _engine_error,
    "engine_death": _engine_death,
    "engine_hang": _engine_hang,
    "nonsense": _nonsense,
    "refused": _refused,
    "slow_reader": _slow_reader,
}


def under_way(metrics: str) -> dict[str, float]:
    """The gauges of `/metrics` that are not zero, but for the one connection that the scrape itself came on."""
    found = {name: value for name, value in metrics_in(metrics).items() if name.startswith(UNDER_WAY) and value}
    if found.get("headrace_client_connections") == 1.0:
        del found["headrace_client_connections"]
    return found
