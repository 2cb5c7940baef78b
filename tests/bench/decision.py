"""`python -m tests.bench.decision`: what one choice of a replica costs the event loop, part by part."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

import router.prefix
from router.load import ReplicaLoad
from router.policies.marginal_latency import MarginalLatency
from router.prefix import Certainty, Prefix, PrefixIndex, Slot
from router.types import Features

ROOT = Path(__file__).parents[2]
REPLICAS, BLOCKS, BLOCK_TOKENS, OUTPUT_TOKENS = 64, 2048, 16, 300.0
SHARED_BLOCKS = 128
"""Of a system prompt that every replica holds."""
AT_A_TIME = 8
"""Prompts that are made ready before they are sent, so that making them ready does not show in what is measured."""
LIMIT_US = 150.0
PARTS = ("match", "features", "choose", "begin", "insert")

Line = dict[str, object]


@dataclass
class Bench:
    """64 busy replicas whose KV caches are full, so that each prompt that is put into the index drives others out."""

    index: PrefixIndex
    slots: list[Slot]
    loads: list[ReplicaLoad]
    rng: random.Random

    def keys(self, count: int) -> list[int]:
        return [self.rng.getrandbits(64) for _ in range(count)]

    def decide(self, policy: MarginalLatency, prefix: Prefix) -> list[int]:
        """Nanoseconds of each of `PARTS`."""
        clock, prompt_tokens = time.thread_time_ns, len(prefix.keys) * BLOCK_TOKENS
        times = [clock()]
        held = self.index.match(prefix)
        times.append(clock())
        cached = [min(held[slot.bit], prompt_tokens) for slot in self.slots]
        features = Features(prompt_tokens, OUTPUT_TOKENS, cached, "", 1.0)
        times.append(clock())
        chosen = policy.choose(features, self.loads)
        times.append(clock())
        work = self.loads[chosen].begin(prompt_tokens, cached[chosen], OUTPUT_TOKENS, 1.0)
        times.append(clock())
        self.index.insert(self.slots[chosen], prefix)
        times.append(clock())
        work.close()
        return [b - a for a, b in itertools.pairwise(times)]


def replicas() -> Bench:
    rng = random.Random(7)
    index = PrefixIndex()
    bench = Bench(index, [index.open() for _ in range(REPLICAS)], [], rng)
    for number, slot in enumerate(bench.slots):
        load = ReplicaLoad(f"replica-{number}", kv_capacity_tokens=500_000)
        for _ in range(8):
            load.begin(rng.randrange(500, 5000), 0, OUTPUT_TOKENS, 0.0)
        bench.loads.append(load)
        for _ in range(8):
            index.insert(slot, Prefix(bench.keys(BLOCKS)))
    return bench


def cold(bench: Bench) -> Iterator[Prefix]:
    """Nobody has seen any of it."""
    while True:
        yield Prefix(bench.keys(BLOCKS))


def shared(bench: Bench) -> Iterator[Prefix]:
    """All hold its system prompt, and nobody the rest."""
    system = bench.keys(SHARED_BLOCKS)
    for slot in bench.slots:
        bench.index.insert(slot, Prefix(system))
    while True:
        yield Prefix(system + bench.keys(BLOCKS - SHARED_BLOCKS))


def conversation(bench: Bench) -> Iterator[Prefix]:
    """All hold its system prompt, and three replicas as much of it as they were sent."""
    system = bench.keys(SHARED_BLOCKS)
    for slot in bench.slots:
        bench.index.insert(slot, Prefix(system))
    while True:
        prompts = [system + bench.keys(BLOCKS - SHARED_BLOCKS) for _ in range(AT_A_TIME)]
        for prompt in prompts:
            for slot in bench.rng.sample(bench.slots, 3):
                bench.index.insert(slot, Prefix(prompt[: bench.rng.randrange(BLOCKS // 2, BLOCKS)]))
        yield from map(Prefix, prompts)


def told(bench: Bench) -> Iterator[Prefix]:
    """The same, known from the engines."""
    system = bench.keys(SHARED_BLOCKS)
    for slot in bench.slots:
        bench.index.certain(slot, Certainty.EXACT)
        bench.index.stored(slot, system)
    while True:
        prompts = [system + bench.keys(BLOCKS - SHARED_BLOCKS) for _ in range(AT_A_TIME)]
        for prompt in prompts:
            for slot in bench.rng.sample(bench.slots, 3):
                bench.index.stored(slot, prompt[: bench.rng.randrange(BLOCKS // 2, BLOCKS)])
        yield from map(Prefix, prompts)
        for slot in bench.slots:
            bench.index.removed(slot, set(slot.exact).difference(system))


def scattered(bench: Bench) -> Iterator[Prefix]:
    """Known from the engines; each of the 64 holds another part of it: the most that a match can cost."""
    for slot in bench.slots:
        bench.index.certain(slot, Certainty.EXACT)
    while True:
        prompts = [bench.keys(BLOCKS) for _ in range(AT_A_TIME)]
        for prompt in prompts:
            for slot in bench.slots:
                bench.index.stored(slot, prompt[: bench.rng.randrange(1, BLOCKS)])
        yield from map(Prefix, prompts)
        for slot in bench.slots:
            bench.index.clear(slot)


CASES: tuple[Callable[[Bench], Iterator[Prefix]], ...] = (cold, shared, conversation, told, scattered)


def measured(rounds: int) -> Iterator[Line]:
    compiled = not router.prefix.__file__.endswith(".py")
    for case in CASES:
        bench = replicas()
        policy, prompts = MarginalLatency(random.Random(7)), case(bench)
        times = [bench.decide(policy, next(prompts)) for _ in range(rounds)]
        parts = {name: statistics.median(row[i] for row in times) / 1e3 for i, name in enumerate(PARTS)}
        total = statistics.median(sum(row) for row in times) / 1e3
        yield {
            "what": f"one choice among {REPLICAS} replicas, {BLOCKS * BLOCK_TOKENS} tokens, {case.__name__}",
            "unit": "us of CPU",
            "value": round(total, 1),
            "limit": LIMIT_US,
            "parts": {name: round(value, 1) for name, value in parts.items()},
            "compiled": compiled,
        }


def elsewhere(rounds: int) -> Iterator[Line]:
    """The same in `.compiled`, where the package is installed compiled, if it is there."""
    python = ROOT / ".compiled" / "bin" / "python"
    if not python.exists():
        return
    command = (python, "-P", __file__, "--json", "--here", "--rounds", str(rounds))
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        print(f".compiled is out of date (`make compiled`): {found.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return
    for line in found.stdout.splitlines():
        yield json.loads(line)


def decision(
    as_json: bool = typer.Option(False, "--json", help="One JSON object a line."),
    rounds: int = typer.Option(300, min=1, help="Choices of each case; their median counts."),
    here: bool = typer.Option(False, "--here", help="With this Python alone, not in .compiled too."),
) -> None:
    """Measure one choice of a replica, in plain Python and, where `make compiled` was run, compiled."""
    for source in (measured,) if here else (measured, elsewhere):
        for line in source(rounds):
            if as_json:
                print(json.dumps(line), flush=True)
                continue
            parts = "  ".join(f"{name} {value}" for name, value in line["parts"].items())  # type: ignore[attr-defined]
            kind = "compiled" if line["compiled"] else "plain"
            print(f"{line['value']:>7} us  {kind:8}  {line['what']}: {parts}", flush=True)


if __name__ == "__main__":
    typer.run(decision)
