"""Everything that is told about requests, in one worker process: metrics, access log, traces."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from gateway.config import Telemetry as Options
from gateway.record import Record
from gateway.telemetry import series
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.cache_series import LABEL_LAG
from gateway.telemetry.meters import Meters
from gateway.telemetry.metrics import Bound, Gauge, Labels, Registry, Values, observe
from gateway.telemetry.process import Process
from gateway.telemetry.redact import Redactor
from gateway.telemetry.span import NO_SPAN, Span, passed_on

if TYPE_CHECKING:
    from gateway.telemetry.tracing import Tracer


class Books(Protocol):
    """Where records of calls that are over are kept."""

    def append(self, record: Record) -> None:
        """Never blocks."""
        ...

    def close(self) -> None:
        """Write out what waits. Blocks, for a few seconds at most."""
        ...


class Telemetry:
    """One per worker, used from its event loop alone.

    deployments: names that have series of their own; any other model name counts as `other`.
    redactor:    knows the secrets of the configuration, which no line and no span may show.
    books:       where calls that are over are kept; closed with this.

    Raises:
        OSError: the access log cannot be opened.
    """

    def __init__(
        self,
        options: Options,
        *,
        worker_id: int = 0,
        deployments: Iterable[str] = (),
        redactor: Redactor | None = None,
        books: Sequence[Books] = (),
    ) -> None:
        known = frozenset(deployments)
        self.redactor = redactor = redactor or Redactor()
        """Blanks out secrets, in answers as well."""
        version = importlib.metadata.version("headrace")
        self._registry = Registry(Bound(options.max_tenants))
        self._meters = Meters(self._registry, known)
        self._in_flight: dict[str, Gauge] = {}
        self._replicas: dict[Labels, Gauge] = {}
        self._attempts: dict[Labels, Values] = {}
        self._waits: dict[str, Values] = {}
        self._process = Process()
        self.connections = Gauge(self._registry.child(series.CLIENT_CONNECTIONS))
        """Open client connections: whoever accepts one calls `inc`, and `dec` when it is closed."""
        self.marks_prefixes = options.access_log.prefix_secret is not None
        """Whether the access log tells which prompts begin alike."""
        self._books = books
        self._log: AccessLog | None = None
        if options.access_log.format != "off":
            self._log = AccessLog(options.access_log, redactor, known)
        self._tracer: Tracer | None = None
        if options.tracing.otlp_endpoint:
            from gateway.telemetry.tracing import Tracer

            self._tracer = Tracer(options.tracing, version=version, worker_id=worker_id, redactor=redactor)
        self._describe(version)

    def begin(self, record: Record) -> Span:
        """Call when the headers are read. `traceparent` of the answer is what the engine is to get, if anything."""
        if self._tracer is not None:
            return self._tracer.begin(record)
        return passed_on(record.traceparent) if record.traceparent else NO_SPAN

    def finish(self, record: Record, span: Span) -> None:
        """Call once per request, after the client has its last byte and `ended_s` is set. Never blocks."""
        self._meters.count(record)
        for books in self._books:
            books.append(record)
        if self._log is not None:
            self._log.write(record, span.trace_id)
        if self._tracer is not None:
            self._tracer.finish(record, span, self._meters.deployment(record.deployment))

    def in_flight(self, deployment: str) -> Gauge:
        """Requests in flight of one deployment; unknown ones share one gauge."""
        gauge = self._in_flight.get(deployment)
        if gauge is None:
            label = self._meters.deployment(deployment)
            gauge = self._in_flight.get(label)
            if gauge is None:
                gauge = self._in_flight[label] = Gauge(self._registry.child(series.IN_FLIGHT, (label,)))
        return gauge

    def replica_in_flight(self, pool: str, replica: str) -> Gauge:
        """Requests in flight at one replica, for who counts them himself; else `watch`."""
        gauge = self._replicas.get((pool, replica))
        if gauge is None:
            values = self._registry.child(series.REPLICA_IN_FLIGHT, (pool, replica))
            gauge = self._replicas[(pool, replica)] = Gauge(values)
        return gauge

    def know(self, deployments: Iterable[str]) -> None:
        """The configuration changed: these are the deployments from now on. What was counted stays."""
        known = frozenset(deployments)
        self._meters.know(known)
        if self._log is not None:
            self._log.know(known)

    def attempt(self, pool: str, replica: str, outcome: str) -> None:
        """Count one attempt at a replica; `outcome` is one of `series.OUTCOMES`."""
        key = (pool, replica, outcome)
        values = self._attempts.get(key)
        if values is None:
            label = outcome if outcome in series.OUTCOMES else series.OTHER
            values = self._attempts[key] = self._registry.child(series.ATTEMPTS, (pool, replica, label))
        values[0] += 1.0

    def retry(self, deployment: str, *, allowed: bool) -> None:
        """Count a retry, or one that would have gone over its share."""
        self._registry.child(series.RETRIES, (deployment, "sent" if allowed else "denied"))[0] += 1.0

    def fallback(self, deployment: str, fallback: str, reason: str) -> None:
        """Count a call that goes to `fallback` in place of `deployment`."""
        self._registry.child(series.FALLBACKS, (deployment, fallback, str(reason)))[0] += 1.0

    def hedge(self, deployment: str, *, won: bool) -> None:
        """Count a second attempt beside the first."""
        self._registry.child(series.HEDGES, (deployment, "won" if won else "lost"))[0] += 1.0

    def queue_wait(self, deployment: str, waited_s: float) -> None:
        """Count a request that got its turn."""
        values = self._waits.get(deployment)
        if values is None:
            values = self._waits[deployment] = self._registry.child(series.QUEUE_WAIT, (deployment,))
        observe(values, series.QUEUE_WAIT.buckets, waited_s)

    def queue_shed(self, deployment: str, reason: str) -> None:
        """Count a request that the queue turned away."""
        self._registry.child(series.QUEUE_SHED, (deployment, reason))[0] += 1.0

    def label_lag(self, lag_s: float) -> None:
        """Count a label of the response cache, so long after the answer."""
        observe(self._registry.child(LABEL_LAG), LABEL_LAG.buckets, lag_s)

    def watch(self, name: str, read: Callable[[], Iterable[tuple[Labels, float]]]) -> None:
        """Fill a metric of `series.ALL` from `read`, which is asked for label values and numbers at each snapshot.

        Raises:
            KeyError: no such metric.
        """
        self._registry.watch(series.ALL[name], read)

    def snapshot(self) -> bytes:
        """All metrics of this worker, for `merge`."""
        return self._registry.snapshot()

    def reopen(self) -> None:
        """Open the access log's file anew: after log rotation."""
        if self._log is not None:
            self._log.reopen()

    async def aclose(self) -> None:
        """Write out what waits, and stop every thread. Takes a few seconds at most, even if nobody listens."""
        for books in self._books:
            await asyncio.to_thread(books.close)
        if self._log is not None:
            await asyncio.to_thread(self._log.close)
        if self._tracer is not None:
            await self._tracer.aclose()
        self._process.close()

    def _describe(self, version: str) -> None:
        self._registry.child(series.BUILD_INFO, (version, platform.python_version()))[0] = 1.0
        self._registry.child(series.WORKERS)[0] = 1.0
        process = self._process
        self.watch(series.CPU.name, lambda: [((), process.cpu_s)])
        self.watch(series.RSS.name, lambda: [((), process.rss_bytes)])
        self.watch(series.START.name, lambda: [((), process.start_s)])
        log = self._log
        if log is not None:
            self.watch(series.LOG_LINES_DROPPED.name, lambda: [((), log.dropped)])
