"""What a metric is: its name, labels, unit and buckets, and how the values of several workers become one."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Fold(enum.StrEnum):
    """How one series of several workers becomes one number."""

    SUM = "sum"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Series:
    """One metric.

    name:       as it stands in the exposition; of a counter with its `_total`.
    buckets:    upper bounds in `unit`, without +Inf; histograms only.
    spill:      labels that become `other` once the metric has `max_children` label sets. All metrics together stay
                below 5,000 lines of exposition, whatever clients send.
    otel:       name in the OpenTelemetry conventions, if it has one there.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()
    fold: Fold = Fold.SUM
    spill: tuple[str, ...] = ()
    max_children: int = 700
    otel: str = ""

    @property
    def width(self) -> int:
        """Numbers in one series: a histogram has its buckets, +Inf and the sum."""
        return len(self.buckets) + 2 if self.kind is Kind.HISTOGRAM else 1
