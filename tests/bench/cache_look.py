"""How long the semantic tier of the response cache takes to tell what is near a question: a part of `cache_speed`."""

from __future__ import annotations

import gc
import itertools
import random
import secrets
import statistics
import time
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from cache.answer import Answer
from cache.asked import Question
from cache.embed.seam import unpacked
from cache.embed.two_stage import TwoStage
from cache.entry import Added, Entry
from cache.index import EXACT, Floats, Index, _Graph, as_bytes
from cache.library import Library
from cache.semantics.cohort import Cohort
from cache.semantics.seam import Bound
from cache.signals import read_signals
from gateway.caching.asking import Place
from gateway.caching.embedders import open_embedder
from gateway.caching.semantic import Semantic
from gateway.caching.tally import Tally
from gateway.config.cache_options import EmbedderOptions
from gateway.residency import ANYWHERE
from tests.bench.cache_index import NOISE
from tests.gateway.caching.test_semantic_hits import HOW, TOPICS, WHOSE, WORDINGS
from tests.harness import Json

REAL = 2000
"""Entries whose vectors are those of their texts."""
CHUNK = 20_000
NOW = 1_700_000_000.0
PARTITION = b"p" * 32
ANSWER = Answer("chat", False, "m", "stop", 5, 1, b"{}", (b'{"choices":[{"message":{"content":"yes"}}]}',))


async def look_us(kind: str, entries: int, questions: int, threads: int, seed: int) -> Json:
    """Wall clock, and CPU of the loop's thread, for a question each, one after the other."""
    chance = random.Random(seed)
    embedder = await open_embedder(EmbedderOptions(kind=kind, timeout_s=10.0))  # type: ignore[arg-type]
    try:
        texts = _texts(chance)
        library = Library(Cohort, Bound(), max_bytes=1 << 40, read_signals=read_signals)
        began_s = time.perf_counter()
        await _fill(library, embedder, texts[:REAL], entries, threads, seed)
        filled_s = time.perf_counter() - began_s
        # The labeller is asked for nothing, as no answer is made or served.
        semantic = Semantic(library, None, Tally(), lambda _: None, chance, lambda: NOW, 8)  # type: ignore[arg-type]
        semantic.embedder = embedder
        asked = list(itertools.islice(itertools.cycle(texts[REAL:]), questions + 50))
        gc.collect()
        gc.freeze()
        try:
            wall_us, cpu_us, near = await _ask(semantic, asked)
        finally:
            gc.unfreeze()
        return {
            "entries": len(library),
            "filled_s": round(filled_s, 1),
            "near": near,
            "wall_us": _spread(wall_us[50:]),
            "cpu_us": _spread(cpu_us[50:]),
        }
    finally:
        await embedder.aclose()


async def _ask(semantic: Semantic, asked: Sequence[str]) -> tuple[list[float], list[float], float]:
    """And for what share of them something was near enough to be scored."""
    wall_us, cpu_us, near = [], [], 0
    for text in asked:
        place = Place(Question(b"k" * 32, PARTITION, text), "t", "t/m")
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        sight = await semantic.look(place, ANYWHERE)
        wall_us.append((time.perf_counter() - wall_s) * 1e6)
        cpu_us.append((time.thread_time() - cpu_s) * 1e6)
        near += sight is not None and sight.look is not None
    return wall_us, cpu_us, near / len(asked)


def _texts(chance: random.Random) -> list[str]:
    """All that can be said of some things, in any order."""
    whole = itertools.product(WORDINGS, WHOSE, HOW, TOPICS)
    found = [wording.format(f"{whose} {how} {topic}") for wording, whose, how, topic in whole]
    return chance.sample(found, len(found))


async def _fill(library: Library, embedder: TwoStage, texts: list[str], entries: int, threads: int, seed: int) -> None:
    """Entries without their vectors are added first, and both indexes built by several threads, as no worker does."""
    rng = np.random.default_rng(seed)
    seconds = np.stack([(await embedder.second.embed([text]))[0] for text in texts])
    firsts = np.stack([embedder.first.embed_now(text) for text in texts]) if embedder.first is not None else None
    library.compare_by(embedder.name)
    first = b"" if firsts is None else as_bytes(firsts[0])
    library.apply(Added(replace(_entry(texts[0]), vector=as_bytes(seconds[0]), first=first, embedder=embedder.name)))
    place = library._places[PARTITION]
    for start in range(1, entries, CHUNK):
        numbers = np.arange(start, min(start + CHUNK, entries))
        for number in numbers.tolist():
            library.apply(Added(_entry(texts[number % len(texts)])))
        _extend(place.fine, seconds, numbers, threads, rng)
        if firsts is not None and place._coarse is not None:
            _extend(place._coarse, firsts, numbers, threads, rng)


def _entry(text: str) -> Entry:
    name, key = secrets.token_hex(16), secrets.token_bytes(32)
    return Entry(name, key, PARTITION, "t/m", "t", "m", "m", text, ANSWER, (), NOW - 1, NOW + 1e6, 0)


def _extend(index: Index, base: Floats, numbers: NDArray[np.int64], threads: int, rng: np.random.Generator) -> None:
    rows = base[numbers % len(base)]
    strangers = numbers >= len(base)
    noise = rng.standard_normal(rows.shape, dtype=np.float32)
    noise *= NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
    rows = np.where(strangers[:, None], rows + noise, rows)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if len(index) + len(numbers) <= EXACT:
        for number, row in zip(numbers.tolist(), rows, strict=True):
            index.add(number, as_bytes(row))
        return
    if index._graph is None:
        index._graph = _Graph(index.dimensions)
        for number, vector in index._vectors.items():
            index._graph.add(number, unpacked(vector))
        index._rows = None
    index._graph._index.add(numbers, rows, threads=threads)
    index._vectors.update(zip(numbers.tolist(), map(as_bytes, rows), strict=True))


def _spread(times: list[float]) -> dict[str, int]:
    cuts = statistics.quantiles(times, n=1000)
    return {"p50": round(cuts[499]), "p99": round(cuts[989])}
