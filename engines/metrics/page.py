"""From a Prometheus page to figures of load. Pure.

A page of vLLM has 600 lines, of which nine are of use here. A parser of the whole page holds the event loop for 10 ms;
so lines are picked out by their names first, and only those are parsed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from engines.kinds import SERVERS, LoadMetrics
from engines.metrics.select import Sample, Selector

MAX_SAMPLES: Final = 2048
"""Lines of a page that are looked at closer; no engine has so many of these names."""
MOST: Final = 1e15
"""Larger numbers are no count of anything."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a page says of an engine, all its data-parallel ranks together; 0 where it says nothing.

    server:        whose names it has, as in `engines.kinds.SERVERS`.
    running, waiting: requests.
    kv_usage:      share of the KV cache in use, 0 to 1; None: it does not say.
    kv_tokens:     tokens that fit the KV cache.
    block_tokens:  tokens in a block of it.
    prompts, prompt_tokens, cached_tokens: since the engine's start; the cached ones are among the prompt tokens.
    """

    server: str
    running: float
    waiting: float
    kv_usage: float | None = None
    kv_tokens: int = 0
    block_tokens: int = 0
    prompts: float = 0.0
    prompt_tokens: float = 0.0
    cached_tokens: float = 0.0

    @property
    def mean_uncached_tokens(self) -> float:
        """Of a prompt; 0.0: unknown."""
        return max(0.0, self.prompt_tokens - self.cached_tokens) / self.prompts if self.prompts else 0.0


@dataclass(frozen=True, slots=True)
class _Family:
    """`LoadMetrics` of one server, taken apart: the fields have the same names."""

    server: str
    running: tuple[Selector, ...]
    waiting: tuple[Selector, ...]
    kv_usage: tuple[Selector, ...]
    kv_tokens: tuple[Selector, ...]
    block_tokens: tuple[Selector, ...]
    blocks: tuple[Selector, ...]
    prompts: tuple[Selector, ...]
    prompt_tokens: tuple[Selector, ...]
    cached_tokens: tuple[Selector, ...]

    @classmethod
    def of(cls, server: str, load: LoadMetrics) -> _Family:
        return cls(server, *(_selectors(getattr(load, field.name)) for field in fields(cls)[1:]))

    def names(self) -> Iterator[bytes]:
        for field in fields(self)[1:]:
            yield from (selector.name.encode() for selector in getattr(self, field.name))


def _selectors(names: str | tuple[str, ...] | None) -> tuple[Selector, ...]:
    return tuple(Selector.parse(name) for name in ((names,) if isinstance(names, str) else names or ()))


_LOADS: Final[dict[LoadMetrics, str]] = {}
for _server, _known in SERVERS.items():
    if _known.load is not None:
        _LOADS.setdefault(_known.load, _server)
_FAMILIES: Final = tuple(_Family.of(server, load) for load, server in _LOADS.items())
_NAMES: Final = frozenset(name for family in _FAMILIES for name in family.names())
PATHS: Final = tuple(dict.fromkeys(load.path for load in _LOADS))
"""Where pages may be, the usual place first."""


def read_page(page: bytes) -> Figures | None:
    """What the page says; None: nothing of the load of an engine that is known."""
    samples = _samples(page)
    if not samples:
        return None
    for family in _FAMILIES:
        running = _first(family.running, samples, math.fsum)
        waiting = _first(family.waiting, samples, math.fsum)
        if running is not None or waiting is not None:
            return _figures(family, samples, running or 0.0, waiting or 0.0)
    return None


def _figures(family: _Family, samples: Sequence[Sample], running: float, waiting: float) -> Figures:
    usage = _first(family.kv_usage, samples, _mean)
    block_tokens = _first(family.block_tokens, samples, max) or 0.0
    kv_tokens = _first(family.kv_tokens, samples, math.fsum)
    if kv_tokens is None:
        kv_tokens = block_tokens * (_first(family.blocks, samples, math.fsum) or 0.0)
    counters = (family.prompts, family.prompt_tokens, family.cached_tokens)
    prompts, prompt_tokens, cached_tokens = (_first(one, samples, math.fsum) or 0.0 for one in counters)
    return Figures(
        family.server,
        running,
        waiting,
        None if usage is None else min(1.0, usage),
        int(min(kv_tokens, MOST)),
        int(block_tokens),
        prompts,
        prompt_tokens,
        cached_tokens,
    )


def _first(
    selectors: Iterable[Selector], samples: Sequence[Sample], fold: Callable[[list[float]], float]
) -> float | None:
    """What the first selector that finds something found."""
    for selector in selectors:
        if numbers := selector.numbers(samples):
            return min(fold(numbers), MOST)
    return None


def _mean(numbers: list[float]) -> float:
    return math.fsum(numbers) / len(numbers)


def _samples(page: bytes) -> list[Sample]:
    kept = [line for line in page.splitlines() if _name(line) in _NAMES]
    return [sample for line in kept[:MAX_SAMPLES] for sample in _parsed(line)]


def _name(line: bytes) -> bytes:
    return line.partition(b"{")[0] if b"{" in line else line.partition(b" ")[0]


def _parsed(line: bytes) -> list[Sample]:
    """The line's sample, if it is one."""
    try:
        families = list(text_string_to_metric_families(line.decode()))
    except Exception:  # the parser lets whatever goes wrong inside it through
        return []
    return [_sample(one.name, one.labels, one.value) for family in families for one in family.samples]


def _sample(name: str, labels: Mapping[str, str], value: float) -> Sample:
    return Sample(name, labels, float(value))
