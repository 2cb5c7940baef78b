"""Names of `LoadMetrics`, and the numbers that a page has for them. Pure."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

_NAME: Final = re.compile(
    r"(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<label>\w+)=\"(?P<value>[^\"]*)\"\}|\[(?P<read>\w+)\])?", re.ASCII
)
_RANKS: Final = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "moe_dp_rank", "pid"})
"""Labels that tell processes of one engine apart: each of them counts the same requests and the same cache."""


@dataclass(frozen=True, slots=True)
class Sample:
    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Selector:
    """One name of `LoadMetrics`, taken apart. `read`: the label that holds the number; empty: it is the value."""

    name: str
    label: str = ""
    value: str = ""
    read: str = ""

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Raises ValueError: it is no name of a metric."""
        found = _NAME.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} names no metric")
        return cls(found["name"], found["label"] or "", found["value"] or "", found["read"] or "")

    def numbers(self, samples: Iterable[Sample]) -> list[float]:
        """One for each series, and one for all ranks of an engine; what is not finite or below 0 is not told."""
        found: dict[tuple[tuple[str, str], ...], list[float]] = defaultdict(list)
        for sample in samples:
            if sample.name == self.name and (not self.label or sample.labels.get(self.label) == self.value):
                number = _number(sample.labels.get(self.read)) if self.read else sample.value
                if math.isfinite(number) and number >= 0.0:
                    found[_engine(sample.labels)].append(number)
        return [max(numbers) for numbers in found.values()]


def _number(text: str | None) -> float:
    try:
        return math.nan if text is None else float(text)
    except ValueError:
        return math.nan


def _engine(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in labels.items() if name not in _RANKS))
