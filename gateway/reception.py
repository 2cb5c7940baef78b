"""Where every request comes in and every answer is accounted for: its id, its record, its trace, its error."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable

from gateway.clock import Clock
from gateway.errors import ApiError, InternalError
from gateway.http import Handler, Request, Sink
from gateway.record import Record
from gateway.relay import JSON_HEADERS
from gateway.telemetry import NO_SPAN, Span, Telemetry

logger = logging.getLogger(__name__)

Serve = Callable[[Request, Sink, Record, Span], Awaitable[None]]
"""Answers one request, or raises what is wrong with it. Cancelled when the client goes away."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")
_PROBED = re.compile(r"/(?:health|healthz|readyz|liveness|readiness|metrics)(?:/|$)")
"""Asked every few seconds by machines; worth a line only when the answer is bad."""


class Reception:
    """Wraps what serves requests so that each one is answered and told of exactly once."""

    def __init__(self, telemetry: Telemetry, clock: Clock) -> None:
        self._telemetry = telemetry
        self._clock = clock
        self._id_prefix = secrets.token_hex(12)
        self._requests = 0

    def handler(self, serve: Serve, operation: str = "") -> Handler:
        """`operation`: OTel's name of a model call; empty for everything else."""

        async def handle(request: Request, sink: Sink) -> None:
            record = self._open(request, operation)
            sink.extra_lines += b"x-request-id: %b\r\n" % record.request_id.encode()
            span = self._telemetry.begin(record) if operation else NO_SPAN
            try:
                await serve(request, sink, record, span)
            except ApiError as error:
                self._refuse(error, sink, record)
            except asyncio.CancelledError:
                record.status, record.error_type = 499, sink.gone
                raise
            except Exception:
                logger.exception("request %s failed in the gateway", record.request_id)
                self._refuse(InternalError(), sink, record)
            finally:
                self._close(record, span, sink)

        return handle

    def refusal(self, error: ApiError) -> Handler:
        """A handler that answers with `error`."""

        async def refuse(request: Request, sink: Sink, record: Record, span: Span) -> None:
            raise error

        return self.handler(refuse)

    def _refuse(self, error: ApiError, sink: Sink, record: Record) -> None:
        error.clean(self._telemetry.redactor.text)
        record.note(error)
        if not sink.started:
            record.status = error.status
            body = error.body()
            sink.start(error.status, JSON_HEADERS + error.header_lines(), len(body))
            sink.write(body)
        elif not sink.whole:
            sink.write(error.event())
        sink.end()

    def _open(self, request: Request, operation: str) -> Record:
        given = request.headers.get(b"x-request-id")
        trusted = given is not None and _REQUEST_ID.fullmatch(given) is not None
        record = Record(
            request_id=given.decode("ascii") if given is not None and trusted else self._new_id(),
            started_s=self._clock.monotonic(),
            own_id=not trusted,
            method=request.method.decode("latin-1"),
            path=request.path,
            operation=operation,
            client=request.client,
        )
        traceparent = request.headers.get(b"traceparent")
        if traceparent is not None:
            record.traceparent = traceparent.decode("latin-1")
        return record

    def _new_id(self) -> str:
        """Unique over workers and restarts; not a secret."""
        self._requests += 1
        return f"req_{self._id_prefix}{self._requests:08x}"

    def _close(self, record: Record, span: Span, sink: Sink) -> None:
        record.bytes_out += sink.bytes_out
        record.ended_s = self._clock.monotonic()
        record.status = record.status or sink.status
        if record.operation or record.status >= 400 or not _PROBED.match(record.path):
            self._telemetry.finish(record, span)
