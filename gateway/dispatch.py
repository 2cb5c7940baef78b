"""Finds a replica for a call and tries again elsewhere, until the first byte has gone to the client."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import msgspec

from engines.base import EngineError, EngineRequest, EngineResponse, EngineTimeout, Timeouts
from gateway.catalog import Deployment, Variant
from gateway.clock import Clock
from gateway.errors import ApiError, NoHealthyBackend, Overloaded, UpstreamTimeout
from gateway.record import Record
from gateway.replicas import Lease, Replica
from gateway.telemetry import Telemetry
from gateway.upstream import Outcome, Rejection, from_engine_error
from gateway.wire import Call, body_for
from router.types import Features

Deliver = Callable[[EngineResponse], Awaitable[Outcome]]
"""Takes an engine's answer to the client. Raises only while nothing has been sent, so that another may be tried."""


class Dispatcher:
    """Sends a call to the replica that the policy chooses, within one budget of attempts and time (A19)."""

    def __init__(self, clock: Clock, rng: random.Random, telemetry: Telemetry) -> None:
        self._clock = clock
        self._rng = rng
        self._telemetry = telemetry

    async def run(self, deployment: Deployment, call: Call, headers: bytes, record: Record, deliver: Deliver) -> None:
        """Returns when the answer, whole or broken off, is with the client.

        Raises:
            ApiError: no replica gave an answer, and nothing was sent to the client.
        """
        variant = deployment.draw_variant(self._rng)
        record.variant = variant.name
        record.engine_model = variant.engine_model
        request = EngineRequest(call.operation, body_for(call, variant.engine_model), call.stream, headers)
        budget = _Budget(deployment, self._clock)
        tried: set[Replica] = set()
        failure: ApiError | None = None
        while budget.attempts_left:
            replica = self._choose(deployment, variant, tried, call)
            if replica is None:
                break
            tried.add(replica)
            try:
                await self._attempt(replica, request, budget.spend(), record, deliver)
                return
            except Rejection as rejected:
                rejected.__traceback__ = None  # it leads to who holds the exception: a cycle
                failure = rejected.error
                if rejected.outcome is Outcome.FINE:
                    break
            except EngineError as error:
                error.__traceback__ = None
                failure = from_engine_error(error)
                if isinstance(error, EngineTimeout) and error.phase != "connect":
                    break
        try:
            raise failure or self._nobody(variant)
        finally:
            failure = None  # as above

    async def _attempt(
        self, replica: Replica, request: EngineRequest, limits: Timeouts, record: Record, deliver: Deliver
    ) -> None:
        record.attempts += 1
        record.pool, record.replica, record.engine_kind = replica.pool, replica.name, replica.kind
        outcome = Outcome.ABANDONED
        started_s = self._clock.monotonic()
        answered_s = 0.0
        lease = replica.lease()
        try:
            with lease:
                response = await replica.engine.send(request, limits)
                try:
                    if response.status == 200:
                        replica.breaker.answered(probe=lease.probe)
                    outcome = await deliver(response)
                finally:
                    answered_s = response.last_data_s
                    response.abort()
        except Rejection as rejected:
            outcome = rejected.outcome
            raise
        except EngineError:
            outcome = Outcome.BROKEN
            raise
        finally:
            now_s = self._clock.monotonic()
            record.upstream_s += (answered_s or now_s) - started_s
            _judge(lease, outcome, now_s)
            self._telemetry.attempt(replica.pool, replica.name, outcome)

    def _choose(self, deployment: Deployment, variant: Variant, tried: set[Replica], call: Call) -> Replica | None:
        now_s = self._clock.monotonic()
        eligible = [r for r in variant.replicas if r not in tried and not r.full and r.breaker.allows(now_s)]
        if not eligible:
            return None
        return eligible[deployment.policy.choose(Features(len(call.body)), eligible)]

    def _nobody(self, variant: Variant) -> ApiError:
        now_s = self._clock.monotonic()
        waits = [r.breaker.retry_after_s(now_s) for r in variant.replicas]
        if any(r.full and r.breaker.allows(now_s) for r in variant.replicas):
            message = f"Every replica of {variant.name!r} is at its `max_in_flight`."
            return Overloaded(message)
        message = f"No replica of {variant.name!r} is healthy; {len(variant.replicas)} are configured."
        return NoHealthyBackend(message, retry_after_s=max(1.0, min(waits, default=1.0)))


def _judge(lease: Lease, outcome: Outcome, now_s: float) -> None:
    breaker = lease.replica.breaker
    if outcome is Outcome.FINE:
        breaker.succeeded()
    elif outcome is Outcome.BROKEN:
        breaker.failed(now_s, probe=lease.probe)
    else:
        breaker.abandoned(probe=lease.probe)


class _Budget:
    """What is left of a request's attempts and time."""

    def __init__(self, deployment: Deployment, clock: Clock) -> None:
        self._clock = clock
        self._limits = deployment.timeouts
        self._started_s = clock.monotonic()
        self.attempts_left = deployment.attempts

    def spend(self) -> Timeouts:
        """Take one attempt; its time limits.

        Raises:
            UpstreamTimeout: the whole request's time is up.
        """
        self.attempts_left -= 1
        spent_s = self._clock.monotonic() - self._started_s
        total_s = self._limits.total_s
        if total_s is None or spent_s < 0.001:
            return self._limits
        if spent_s >= total_s:
            raise UpstreamTimeout(f"No answer within total timeout of {total_s:g} s.", code="total_timeout")
        return msgspec.structs.replace(self._limits, total_s=total_s - spent_s)
