"""The way of a model call, from its bytes to its settled charge. Each step is an object with one job."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial

from engines.base import Operation
from gateway.admission import NO_CHARGE, Charge, Ledger
from gateway.caching.asking import Asking, Cache
from gateway.catalog import Catalog, Deployment
from gateway.classifier import Classifier
from gateway.clock import Clock
from gateway.dispatch import Dispatcher, not_allowed
from gateway.http import Request, Sink
from gateway.identity import Caller, KeyRing
from gateway.limits.cost import NOTHING, Cost
from gateway.limits.plan import Plan
from gateway.record import Record
from gateway.relay import Relay
from gateway.residency import Clearance, Residency
from gateway.standing import flow_of
from gateway.telemetry import Span, Telemetry
from gateway.tokens.caps import cap_answer, check_prompt
from gateway.tokens.estimator import Estimator
from gateway.usage.content import ContentLog
from gateway.wire import Call, read_call


@dataclass(slots=True)
class Pipeline:
    """Everything a model call meets on its way, in the order in which it meets it.

    classifier: None when the configuration names none.
    content: None when the configuration has it off.
    cache: None when the configuration has it off.
    keepalive_s: a silent stream gets a comment line this often.
    """

    identity: KeyRing
    residency: Residency
    classifier: Classifier | None
    catalog: Catalog
    estimator: Estimator
    ledger: Ledger
    content: ContentLog | None
    cache: Cache | None
    dispatcher: Dispatcher
    telemetry: Telemetry
    clock: Clock
    keepalive_s: float

    async def serve(self, operation: Operation, request: Request, sink: Sink, record: Record, span: Span) -> None:
        """Answer one model call. What was reserved for it is free when this returns, raises or is cancelled.

        From where it is admitted on, every answer to it says what its caller may still use.

        Raises:
            ApiError: there is no answer, and nothing but comments was sent.
        """
        caller = await self.identity.admit(request.headers, request.client)
        record.tenant, record.team = caller.tenant, caller.team
        record.key_name, record.key_id = caller.key_name, caller.key_id
        if caller.may_name_flow:
            record.flow = flow_of(request.headers)
        call = read_call(operation, request)
        deployment = self.catalog.resolve(call.model, caller)
        record.deployment, record.stream = deployment.name, call.stream
        clearance = self.residency.decide(caller, request)
        if self.classifier is not None:
            clearance = await self.classifier.tightened(clearance, call)
        record.sensitivity, record.untraced = clearance.name, not clearance.traced
        if not deployment.admits(clearance):
            raise not_allowed(deployment, clearance)
        plan = self.ledger.plan(caller, deployment.name)
        call = cap_answer(call, plan.answer)
        admitted: Charge = NO_CHARGE
        if not plan.is_free:
            told = self._cost(plan, deployment, call, request)
            cost = told if isinstance(told, Cost) else await told
            check_prompt(cost, plan.prompt)
            admitted = self.ledger.reserve_now(plan, cost, record) or await self.ledger.reserve(plan, cost, record)
            sink.extra_lines += admitted.header_lines
        with admitted as charge, self.telemetry.in_flight(deployment.name):
            if self.content is not None:
                sink = self._tap(self.content, caller, call, clearance, sink, record)
            asking = Asking(caller, call, deployment, clearance, request, sink, record)
            if self.cache is None:
                await self._ask(asking, span, sink)
            else:
                await self.cache.serve(asking, partial(self._ask, asking, span))
            charge.settle()

    async def _ask(self, asking: Asking, span: Span, sink: Sink) -> None:
        """Have an engine answer into `sink`."""
        call, record = asking.call, asking.record
        with Relay(call, record, sink, self.clock, self.keepalive_s, self.telemetry.redactor) as relay:
            headers = _engine_headers(record, span)
            deliver, asked_with = relay.deliver, asking.request.headers
            await self.dispatcher.run(asking.deployment, call, asking.clearance, headers, record, deliver, asked_with)

    def _cost(self, plan: Plan, deployment: Deployment, call: Call, request: Request) -> Cost | Awaitable[Cost]:
        """What the call may use, as far as a limit asks for it."""
        if plan.counts_tokens or plan.prompt is not None:
            return self.estimator.cost(deployment, call, request.headers)
        return NOTHING

    def _tap(
        self, log: ContentLog, caller: Caller, call: Call, clearance: Clearance, sink: Sink, record: Record
    ) -> Sink:
        """Where the answer is to go, by way of the content log if that keeps it."""
        tap = log.tap(caller.tenant, clearance, call.body, sink)
        if tap is None:
            return sink
        record.content = tap
        return tap


def _engine_headers(record: Record, span: Span) -> bytes:
    """All that an engine gets of the caller's headers (A24)."""
    lines = b"x-request-id: %b\r\n" % record.request_id.encode()
    if span.traceparent is not None:
        lines += b"traceparent: %b\r\n" % span.traceparent
    return lines
