"""The way of a request, from its bytes to its record. Each step is an object with one job."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from dataclasses import dataclass, field

from cache.store import CachedAnswer, ResponseCache, exact_key
from engines.base import Operation
from gateway.admission import Ledger
from gateway.catalog import Catalog
from gateway.clock import Clock
from gateway.dispatch import Dispatcher
from gateway.errors import ApiError, InternalError
from gateway.http import Request, Sink
from gateway.http.recorder import Recorder
from gateway.identity import Caller, KeyRing
from gateway.record import Record, Usage
from gateway.relay import JSON_HEADERS, SSE_HEADERS, Relay, heading, note_error
from gateway.telemetry import Span, Telemetry
from gateway.wire import Call, read_call

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")
_GEN_AI_OPERATION = {
    Operation.CHAT: "chat",
    Operation.COMPLETIONS: "text_completion",
    Operation.EMBEDDINGS: "embeddings",
    Operation.TOKENIZE: "tokenize",
    Operation.DETOKENIZE: "detokenize",
}


@dataclass(slots=True)
class Pipeline:
    """Everything a request meets on its way, in the order in which it meets it.

    cache: None when the configuration has it off.
    keepalive_s: a silent stream gets a comment line this often.
    """

    identity: KeyRing
    catalog: Catalog
    ledger: Ledger
    cache: ResponseCache | None
    dispatcher: Dispatcher
    telemetry: Telemetry
    clock: Clock
    keepalive_s: float
    _id_prefix: str = field(default_factory=lambda: secrets.token_hex(12))
    _requests: int = 0

    async def handle(self, operation: Operation, request: Request, sink: Sink) -> None:
        """Answer one request, whatever happens; what was reserved for it is free when this returns or is cancelled."""
        record = self._open_record(operation, request)
        span = self.telemetry.begin(record)
        try:
            await self._serve(operation, request, sink, record, span)
        except ApiError as error:
            self._refuse(error, sink, record)
        except asyncio.CancelledError:
            record.status, record.error_type = 499, "client_disconnected"
            raise
        except Exception:
            logger.exception("request %s failed in the gateway", record.request_id)
            self._refuse(InternalError(), sink, record)
        finally:
            record.bytes_out += sink.bytes_out
            record.ended_s = self.clock.monotonic()
            self.telemetry.finish(record, span)

    async def _serve(self, operation: Operation, request: Request, sink: Sink, record: Record, span: Span) -> None:
        caller = self.identity.identify(request.headers)
        record.tenant, record.key_name = caller.tenant, caller.key_name
        call = read_call(operation, request)
        deployment = self.catalog.resolve(call.model, caller)
        record.deployment, record.stream = deployment.name, call.stream
        with await self.ledger.reserve(caller, call) as charge, self.telemetry.in_flight(deployment.name):
            recorder = self._look_up(caller, call, request, sink, record)
            if recorder is None:
                return
            with Relay(call, record, recorder, self.clock, self.keepalive_s, self.telemetry.redactor) as relay:
                await self.dispatcher.run(deployment, call, _engine_headers(record, span), record, relay.deliver)
            charge.settle(record.usage)
        self._remember(caller, call, recorder, record)

    def _look_up(self, caller: Caller, call: Call, request: Request, sink: Sink, record: Record) -> Sink | None:
        """Where the answer is to go; None if the cache had it and it is already there."""
        directives = request.headers.get(b"cache-control", b"").lower()
        if self.cache is None or b"no-store" in directives:
            return sink
        record.cache = "miss"
        if b"no-cache" not in directives:
            answer = self.cache.get(exact_key(caller.tenant, call.operation, call.body))
            if answer is not None:
                _replay(answer, sink, record)
                return None
        return Recorder(sink)

    def _remember(self, caller: Caller, call: Call, sink: Sink, record: Record) -> None:
        if self.cache is None or not isinstance(sink, Recorder) or record.error_type:
            return
        usage = record.usage
        answer = CachedAnswer(sink.body(), call.stream, usage.prompt_tokens, usage.completion_tokens)
        self.cache.put(exact_key(caller.tenant, call.operation, call.body), answer)

    def _refuse(self, error: ApiError, sink: Sink, record: Record) -> None:
        error.clean(self.telemetry.redactor.text)
        note_error(record, error)
        if sink.started:
            sink.write(error.event())
            sink.end()
            return
        record.status = error.status
        body = error.body()
        lines = JSON_HEADERS + error.header_lines() + f"x-request-id: {record.request_id}\r\n".encode()
        sink.start(error.status, lines, len(body))
        sink.write(body)
        sink.end()

    def _open_record(self, operation: Operation, request: Request) -> Record:
        given = request.headers.get(b"x-request-id")
        trusted = given is not None and _REQUEST_ID.fullmatch(given)
        record = Record(
            request_id=given.decode("ascii") if given is not None and trusted else self._new_request_id(),
            started_s=self.clock.monotonic(),
            path=request.path,
            operation=_GEN_AI_OPERATION[operation],
            client=request.client,
        )
        traceparent = request.headers.get(b"traceparent")
        if traceparent is not None:
            record.traceparent = traceparent.decode("latin-1")
        return record

    def _new_request_id(self) -> str:
        """Unique over workers and restarts; not a secret."""
        self._requests += 1
        return f"req_{self._id_prefix}{self._requests:08x}"


def _replay(answer: CachedAnswer, sink: Sink, record: Record) -> None:
    """A hit streams like an engine would."""
    record.cache, record.status = "hit", 200
    record.usage = Usage(prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens)
    lines = (SSE_HEADERS if answer.stream else JSON_HEADERS) + heading(record) + b"x-headrace-cache: hit\r\n"
    sink.start(200, lines, None if answer.stream else len(answer.body))
    sink.write(answer.body)
    sink.end()


def _engine_headers(record: Record, span: Span) -> bytes:
    """All that an engine gets of the caller's headers (A24)."""
    lines = b"x-request-id: %b\r\n" % record.request_id.encode()
    if span.traceparent is not None:
        lines += b"traceparent: %b\r\n" % span.traceparent
    return lines
