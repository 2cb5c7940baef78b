"""Spans for requests, exported over OTLP/HTTP. Imported only when a collector is configured: the SDK is not small."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.config import Tracing as Options
from gateway.record import Record
from gateway.telemetry import series
from gateway.telemetry.error_codes import ERRORS
from gateway.telemetry.meters import GATEWAY
from gateway.telemetry.redact import Redactor
from gateway.telemetry.span import Span

EXPORT_TIMEOUT_S: Final = 3.0
"""One export, retries included."""
CLOSE_S: Final = 4.0
"""How long `aclose` goes on exporting."""


class Tracer:
    """Makes a server span per request, and exports it in batches from a thread of its own."""

    def __init__(self, options: Options, *, version: str, worker_id: int, redactor: Redactor) -> None:
        self._redactor = redactor
        endpoint = (options.otlp_endpoint or "").rstrip("/")
        self._exporter = OTLPSpanExporter(
            endpoint=endpoint if endpoint.endswith("/v1/traces") else f"{endpoint}/v1/traces",
            headers={name: value.get_secret_value() for name, value in options.otlp_headers.items()},
            timeout=EXPORT_TIMEOUT_S,
        )
        resource = Resource.create(
            {
                "service.name": options.service_name,
                "service.version": version,
                "service.instance.id": f"worker-{worker_id}",
            }
        )
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(options.sample), resource=resource, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("headrace", version)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, record: Record) -> Span:
        parent = self._propagator.extract({"traceparent": record.traceparent}) if record.traceparent else None
        behind_s = max(0.0, time.monotonic() - record.started_s)
        otel = self._tracer.start_span(
            record.operation or record.method,
            context=parent,
            kind=SpanKind.SERVER,
            start_time=time.time_ns() - int(behind_s * 1e9),
        )
        context = otel.get_span_context()
        trace_id = f"{context.trace_id:032x}"
        flags = int(context.trace_flags)
        return Span(f"00-{trace_id}-{context.span_id:016x}-{flags:02x}".encode(), trace_id, otel)

    def finish(self, record: Record, span: Span, model: str) -> None:
        """End the span. `model` is the deployment if it is a known one: span names must stay few."""
        otel = span.otel
        if not isinstance(otel, OtelSpan) or record.untraced:
            return  # a span that does not end is not exported
        if otel.is_recording():
            otel.update_name(f"{record.operation or record.method} {model}".strip())
            otel.set_attributes(_attributes(record, model))
            otel.set_attribute("url.path", self._redactor.shown(record.path))
            otel.set_attribute("headrace.request_id", self._redactor.shown(record.request_id))
            if record.error_type:
                known = record.error_type in ERRORS
                otel.set_attribute("error.type", record.error_type if known else series.UNNAMED_ERROR)
            if record.status >= 500 or (record.error_type and record.status < 400):
                otel.set_status(Status(StatusCode.ERROR))
        otel.end()

    async def aclose(self) -> None:
        """Export what waits. If the collector does not take it within `CLOSE_S`, only the export under way may end."""
        closing = asyncio.create_task(asyncio.to_thread(self._provider.shutdown))
        await asyncio.wait({closing}, timeout=CLOSE_S)
        if not closing.done():
            self._exporter.shutdown()  # type: ignore[no-untyped-call]
        await closing


def _attributes(record: Record, model: str) -> Mapping[str, str | int | float | list[str]]:
    usage = record.usage
    some: dict[str, str | int | float | None] = {
        "http.request.method": record.method,
        "http.response.status_code": record.status,
        "client.address": record.client,
        "gen_ai.operation.name": record.operation,
        "gen_ai.provider.name": record.engine_kind or GATEWAY,
        "gen_ai.request.model": model,
        "gen_ai.response.model": record.engine_model,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "headrace.tenant": record.tenant,
        "headrace.variant": record.variant,
        "headrace.pool": record.pool,
        "headrace.replica": record.replica,
        "headrace.cache": record.cache,
        "headrace.attempts": record.attempts,
        "headrace.fallback": record.fallback,
        "headrace.fallback_reason": record.fallback_reason,
        "headrace.ttft_s": record.ttft_s,
        "headrace.overhead_s": record.overhead_s,
    }
    attributes: dict[str, str | int | float | list[str]] = {
        name: value for name, value in some.items() if value not in ("", 0, None)
    }
    if record.finish_reason:
        attributes["gen_ai.response.finish_reasons"] = [record.finish_reason]
    return attributes
