"""Finds a replica for a call and tries again elsewhere, until the first byte has gone to the client."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable

from engines.base import EngineError, EngineRequest, EngineResponse, EngineTimeout, Timeouts
from gateway.catalog import Deployment
from gateway.choice import Chooser
from gateway.clock import Clock
from gateway.errand import Errand
from gateway.errors import ApiError, Forbidden
from gateway.facts import rough
from gateway.race import Race, judge
from gateway.record import Record
from gateway.replicas import Replica
from gateway.residency import Clearance
from gateway.telemetry import Telemetry
from gateway.upstream import Outcome, Reason, Rejection, from_engine_error
from gateway.waking import sleeper
from gateway.wire import Call, body_for
from router.load import Work

logger = logging.getLogger(__name__)

Deliver = Callable[[EngineResponse, Work], Awaitable[Outcome]]
"""Takes an engine's answer to the client, and tells the books of its first token. Raises only while nothing has been
sent, so that another may be tried."""

DEFAULT_OUTPUT_TOKENS = 256.0


class Dispatcher:
    """Sends a call to the replica that the policy chooses, within one budget of attempts and time (A19)."""

    def __init__(self, clock: Clock, rng: random.Random, telemetry: Telemetry, chooser: Chooser) -> None:
        self._clock = clock
        self._rng = rng
        self._telemetry = telemetry
        self._chooser = chooser

    async def run(
        self,
        deployment: Deployment,
        call: Call,
        clearance: Clearance,
        headers: bytes,
        record: Record,
        deliver: Deliver,
    ) -> None:
        """Returns when the answer, whole or broken off, is with the client.

        Raises:
            ApiError: no replica gave an answer, and nothing was sent to the client.
        """
        errand = Errand(deployment, call, clearance, headers, self._clock.monotonic())
        self._begin(errand, deployment, record)
        while True:
            replica = self._next(errand, record)
            if replica is None:
                if await self._awake(errand) or self._fall_back(errand, record):
                    continue
                break
            try:
                await self._attempt(replica, errand, record, deliver)
                return
            except Rejection as rejected:
                rejected.__traceback__ = None  # it leads to who holds the exception: a cycle
                errand.failed(rejected.error, rejected.reason, final=rejected.outcome is Outcome.FINE)
            except EngineError as error:
                error.__traceback__ = None
                no_time_left = isinstance(error, EngineTimeout) and error.phase == "total"
                failure = errand.out_of_time() if no_time_left else from_engine_error(error)
                errand.failed(failure, Reason.ERROR, final=no_time_left)
        try:
            raise self._answer(errand)
        finally:
            errand.failure = errand.first = None  # as above

    def _begin(self, errand: Errand, deployment: Deployment, record: Record) -> None:
        """From now on it is `deployment` that is asked."""
        variant = deployment.draw_variant(self._rng, errand.clearance)
        if variant is None:
            raise not_allowed(deployment, errand.clearance)
        call, engine_model = errand.call, variant.engine_model
        record.variant, record.engine_model = variant.name, engine_model
        errand.deployment, errand.variant = deployment, variant
        errand.request = EngineRequest(call.operation, body_for(call, engine_model), call.stream, errand.headers)
        errand.facts = rough(call, DEFAULT_OUTPUT_TOKENS)
        deployment.retries.earn()
        if deployment.hedging is not None:
            deployment.hedging.share.earn()

    def _next(self, errand: Errand, record: Record) -> Replica | None:
        """Whom to ask next; None: this deployment has had its chance, and `errand.failure` says why."""
        if errand.failure is None:
            replica = self._chooser.choose(errand)
            if replica is None:
                self._chooser.nobody(errand)
            return replica
        if errand.final or errand.attempts_left <= errand.reserved:
            return None
        replica = self._chooser.choose(errand)
        if replica is None and errand.reason is Reason.OVERLOADED:
            errand.shorten_wait(self._clock.monotonic())
        if replica is not None and not self._may_retry(errand, record):
            return None
        return replica

    def _may_retry(self, errand: Errand, record: Record) -> bool:
        name, retries, now_s = errand.deployment.name, errand.deployment.retries, self._clock.monotonic()
        allowed = retries.spend(now_s)
        self._telemetry.retry(name, allowed=allowed)
        if not allowed:
            record.retry_denied = True
            if retries.worth_a_word(now_s):
                logger.warning(
                    "deployment %s: retries are over their share of %g of the requests (retry_share); "
                    "until that changes the first failure is the answer",
                    name,
                    retries.share,
                )
        return allowed

    async def _awake(self, errand: Errand) -> bool:
        """Whether a pool that slept has been woken, so that its replicas are to be asked. A fallback need not wait."""
        clearance = errand.clearance
        waker = sleeper((p for p in errand.variant.pools if clearance.admits(p.name)), errand.failure)
        if waker is None:
            return False
        if errand.deployment.fallbacks.get(errand.reason):
            waker.nudge()
            return False
        now_s = self._clock.monotonic()
        errand.wake_by_s = errand.wake_by_s or now_s + waker.wait_s
        if now_s >= errand.wake_by_s:
            return False
        try:
            await waker.hold(errand.wake_by_s)
        except ApiError as error:
            errand.failed(error.with_traceback(None), Reason.ERROR, final=True)
            return False
        errand.ask_again()
        return True

    def _fall_back(self, errand: Errand, record: Record) -> bool:
        """Whether there is another deployment to ask; if so it is the one that is asked now."""
        left = errand.deployment.fallbacks.get(errand.reason, ())
        if errand.reason is Reason.REQUEST or not (left or errand.queue) or not errand.attempts_left:
            return False
        queue = [*left, *errand.queue]
        errand.seen.append(errand.deployment)
        while queue:
            deployment = queue.pop(0)
            if deployment in errand.seen or not deployment.admits(errand.clearance):
                continue
            asked = errand.seen[0].name
            self._telemetry.fallback(asked, deployment.name, errand.reason)
            record.fallback, record.fallback_reason = deployment.name, errand.reason
            errand.move_on(queue)
            self._begin(errand, deployment, record)
            return True
        return False

    async def _attempt(self, replica: Replica, errand: Errand, record: Record, deliver: Deliver) -> None:
        errand.tried.add(replica)
        started_s = self._clock.monotonic()
        limits = errand.spend(started_s)
        hedging = errand.deployment.hedging
        if hedging is not None:
            delay_s = hedging.delay_s(stream=errand.call.stream)
            if delay_s is not None:
                await self._race(errand, record, deliver).run(replica, limits, delay_s)
                return
        record.attempts += 1
        record.pool, record.replica, record.engine_kind = replica.pool, replica.name, replica.kind
        outcome = Outcome.ABANDONED
        answered_s = 0.0
        lease = self._chooser.lease(errand, replica, record, started_s)
        try:
            with lease:
                response = await replica.engine.send(errand.request, limits)
                try:
                    if response.status == 200:
                        replica.breaker.answered(probe=lease.probe)
                    outcome = await deliver(response, lease.work)
                finally:
                    answered_s = response.last_data_s
                    response.abort()
        except Rejection as rejected:
            outcome = rejected.outcome
            if outcome is Outcome.BROKEN:
                replica.last_error = rejected.error.message
            self._chooser.refused(replica, rejected)
            raise
        except EngineError as error:
            outcome = Outcome.BROKEN
            replica.last_error = str(error)
            raise
        finally:
            now_s = self._clock.monotonic()
            record.upstream_s += (answered_s or now_s) - started_s
            judge(lease, outcome, now_s)
            self._chooser.ended(errand, lease, outcome, record.usage)
            self._telemetry.attempt(replica.pool, replica.name, outcome)
        if hedging is not None:
            hedging.learn((record.first_token_s or answered_s) - started_s, stream=errand.call.stream)

    def _race(self, errand: Errand, record: Record, deliver: Deliver) -> Race:
        def second() -> tuple[Replica, Timeouts] | None:
            hedging = errand.deployment.hedging
            replica = self._chooser.choose(errand) if errand.attempts_left else None
            now_s = self._clock.monotonic()
            if replica is None or hedging is None or not hedging.share.spend(now_s):
                return None
            errand.tried.add(replica)
            return replica, errand.spend(now_s)

        return Race(self._clock, self._telemetry, self._chooser, errand, record, deliver, second)

    def _answer(self, errand: Errand) -> ApiError:
        """That of the deployment asked for, unless another one found fault with the request itself."""
        error = errand.failure if errand.reason is Reason.REQUEST else errand.first or errand.failure
        assert error is not None
        return error


def not_allowed(deployment: Deployment, clearance: Clearance) -> ApiError:
    """The refusal of a call that no replica of the deployment may see."""
    message = (
        f"No pool of {deployment.name!r} may get requests of the class {clearance.name!r}; see `residency.sites` and "
        "`residency.labels`."
    )
    return Forbidden(message, code="residency_violation")
