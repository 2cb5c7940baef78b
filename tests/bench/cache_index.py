"""How fast the nearest of many vectors are found: `python -m tests.bench.cache_index [--count 1000000]`.

Without --vectors (float32, a row each) they are made up: clusters of a low inner dimension, as sentences have. More
than the file has are made by adding noise. A question is a vector of the index with noise added; `recall` is how often
that vector is then the nearest found. Microseconds; on a busy machine those of the CPU say more than those of the wall.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np

from cache.index import EXACT, Floats, Index, _Graph, as_bytes

DIMENSIONS = 384
INNER = 48
CLUSTERS = 2000
NOISE = 0.25
"""Of length 1, added to a vector to make another."""
NEIGHBOURS = 8
QUESTIONS = 5000
CHUNK = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="to build the index with")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop building after so long")
    given = parser.parse_args()
    rng = np.random.default_rng(6)
    base = _unit(np.load(given.vectors).astype(np.float32)) if given.vectors else _made_up(rng)
    index, added_s = _built(base, given.count, given.threads, given.seconds, rng)
    report = {
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "machine": platform.processor() or platform.machine(),
        "vectors": len(index),
        "dimensions": index.dimensions,
        "adds_per_s": round(len(index) / added_s),
        "bytes_per_vector": round(index.size_bytes / len(index)),
        **_asked(index, rng),
    }
    print(json.dumps(report, indent=1))


def _made_up(rng: np.random.Generator) -> Floats:
    inner = rng.standard_normal((CLUSTERS, INNER)) * 2
    points = inner[rng.integers(0, CLUSTERS, 50_000)] + rng.standard_normal((50_000, INNER))
    return _unit((points @ rng.standard_normal((INNER, DIMENSIONS))).astype(np.float32))


def _unit(rows: Floats) -> Floats:
    found: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def _near(rows: Floats, rng: np.random.Generator) -> Floats:
    noise = _unit(rng.standard_normal(rows.shape, dtype=np.float32))
    return _unit(rows + np.float32(NOISE) * noise)


def _built(base: Floats, count: int, threads: int, limit_s: float, rng: np.random.Generator) -> tuple[Index, float]:
    """By several threads at once, which a worker never does: it adds one at a time."""
    index = Index(base.shape[1])
    started, first = time.perf_counter(), 0
    while first < count and time.perf_counter() - started < limit_s:
        numbers = np.arange(first, min(first + CHUNK, count))
        rows = base[numbers % len(base)]
        rows = rows if first + CHUNK <= len(base) else _near(rows, rng)
        if count > EXACT:
            index._graph = index._graph or _Graph(index.dimensions)
            index._graph._index.add(numbers, rows, threads=threads)
            index._vectors.update(zip(numbers.tolist(), map(as_bytes, rows), strict=True))
        else:
            for number, row in zip(numbers.tolist(), rows, strict=True):
                index.add(number, as_bytes(row))
        first += len(numbers)
    return index, time.perf_counter() - started


def _asked(index: Index, rng: np.random.Generator) -> dict[str, object]:
    sources = rng.integers(0, len(index), QUESTIONS)
    rows = np.stack([np.frombuffer(index._vectors[int(n)], "<f2") for n in sources]).astype(np.float32)
    questions, wall, cpu, found = _near(rows, rng), [], [], 0
    for source, question in zip(sources.tolist(), questions, strict=True):
        started, cpu_started = time.perf_counter(), time.thread_time()
        near = index.near(question, NEIGHBOURS)
        wall.append((time.perf_counter() - started) * 1e6)
        cpu.append((time.thread_time() - cpu_started) * 1e6)
        found += near[0][0] == source
    return {"wall_us": _spread(wall), "cpu_us": _spread(cpu), "recall": found / QUESTIONS}


def _spread(times: list[float]) -> dict[str, int]:
    cuts = statistics.quantiles(times, n=1000)
    return {"p50": round(cuts[499]), "p99": round(cuts[989])}


if __name__ == "__main__":
    main()
