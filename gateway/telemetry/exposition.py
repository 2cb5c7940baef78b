"""The text that Prometheus reads. The format is prometheus_client's; only the numbers are ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway.telemetry.metrics import Labels, Snapshot, Values
from gateway.telemetry.series import ALL
from gateway.telemetry.shape import Kind, Series


class Exposition(NamedTuple):
    body: bytes
    content_type: str


def render(merged: Snapshot, accept: str = "") -> Exposition:
    """The snapshot as text: OpenMetrics if `accept` (a request's Accept header) asks for it, else Prometheus' own."""
    encode, content_type = choose_encoder(accept)
    return Exposition(encode(_Merged(merged)), content_type)


class _Merged(Collector):
    def __init__(self, merged: Snapshot) -> None:
        self._merged = merged

    def collect(self) -> Iterator[Metric]:
        for name, series in ALL.items():
            rows = self._merged.families.get(name)
            if rows:
                yield _family(series, rows)


def _family(series: Series, rows: list[tuple[Labels, Values]]) -> Metric:
    if series.kind is Kind.HISTOGRAM:
        return _histogram(series, rows)
    make = CounterMetricFamily if series.kind is Kind.COUNTER else GaugeMetricFamily
    family = make(series.name, series.help, unit=_unit(series))
    for labels, values in rows:
        family.add_sample(series.name, _present(series, labels), values[0])
    return family


def _histogram(series: Series, rows: list[tuple[Labels, Values]]) -> Metric:
    family = HistogramMetricFamily(series.name, series.help, unit=_unit(series))
    bounds = [*map(_go_float, series.buckets), "+Inf"]
    for labels, values in rows:
        present = _present(series, labels)
        total = 0.0
        for bound, count in zip(bounds, values, strict=False):
            total += count
            family.add_sample(f"{series.name}_bucket", {**present, "le": bound}, total)
        family.add_sample(f"{series.name}_count", present, total)
        family.add_sample(f"{series.name}_sum", present, values[-1])
    return family


def _present(series: Series, labels: Labels) -> dict[str, str]:
    """Without the empty ones: to Prometheus an empty label and an absent one are the same."""
    return {name: value for name, value in zip(series.labels, labels, strict=True) if value}


def _unit(series: Series) -> str:
    """OpenMetrics states a unit only where the name ends in it."""
    return series.unit if series.name.removesuffix("_total").endswith(f"_{series.unit}") else ""


def _go_float(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]
