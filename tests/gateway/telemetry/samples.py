"""Reads an exposition back, with the reference client's own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry import Telemetry, merge, render

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: bytes) -> Samples:
    samples: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"twice: {key}"
            samples[key] = sample.value
    return samples


def scrape(*workers: Telemetry) -> Samples:
    return parse(render(merge(live=[worker.snapshot() for worker in workers])).body)


def get(samples: Samples, name: str, **labels: str) -> float | None:
    """The one value under exactly these labels."""
    return samples.get((name, frozenset(labels.items())))


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum over all label sets that hold these."""
    wanted = labels.items()
    return sum(value for (known, have), value in samples.items() if known == name and wanted <= have)
