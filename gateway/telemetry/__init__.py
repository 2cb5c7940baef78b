"""Metrics, access log and traces. A worker has a `Telemetry`; the supervisor merges and renders their snapshots."""

from gateway.telemetry.exposition import Exposition, render
from gateway.telemetry.metrics import Bound, Gauge, Snapshot, merge, retire
from gateway.telemetry.redact import Redactor
from gateway.telemetry.span import NO_SPAN, Span
from gateway.telemetry.telemetry import Telemetry

__all__ = [
    "NO_SPAN",
    "Bound",
    "Exposition",
    "Gauge",
    "Redactor",
    "Snapshot",
    "Span",
    "Telemetry",
    "merge",
    "render",
    "retire",
]
