"""Finds a replica for a call and tries again elsewhere, until the first byte has gone to the client."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable

from engines.base import EngineError, EngineRequest, EngineResponse, EngineTimeout, Timeouts
from gateway.catalog import Deployment
from gateway.clock import Clock
from gateway.errand import Errand
from gateway.errors import ApiError, Forbidden, NoHealthyBackend, Overloaded
from gateway.race import Race, judge
from gateway.record import Record
from gateway.replicas import Replica, admitted
from gateway.residency import Clearance
from gateway.telemetry import Telemetry
from gateway.upstream import Outcome, Reason, Rejection, from_engine_error
from gateway.waking import sleeper
from gateway.wire import Call, body_for
from router.types import Features

logger = logging.getLogger(__name__)

Deliver = Callable[[EngineResponse], Awaitable[Outcome]]
"""Takes an engine's answer to the client. Raises only while nothing has been sent, so that another may be tried."""
MAX_REST_S = 60.0
"""An engine that asks to be left alone for longer is asked again after this."""
BUSY_S = 0.25
"""A full engine that says nothing of waiting is asked last for this long: it refuses fast, which looks like speed."""


class Dispatcher:
    """Sends a call to the replica that the policy chooses, within one budget of attempts and time (A19)."""

    def __init__(self, clock: Clock, rng: random.Random, telemetry: Telemetry) -> None:
        self._clock = clock
        self._rng = rng
        self._telemetry = telemetry
        self._busy_until_s = 0.0
        """Until when some replica is to be asked last."""

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
        deployment.retries.earn()
        if deployment.hedging is not None:
            deployment.hedging.share.earn()

    def _next(self, errand: Errand, record: Record) -> Replica | None:
        """Whom to ask next; None: this deployment has had its chance, and `errand.failure` says why."""
        if errand.failure is None:
            replica = self._choose(errand)
            if replica is None:
                self._nobody(errand)
            return replica
        if errand.final or errand.attempts_left <= errand.reserved:
            return None
        replica = self._choose(errand)
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
        lease = replica.lease(started_s)
        try:
            with lease:
                response = await replica.engine.send(errand.request, limits)
                try:
                    if response.status == 200:
                        replica.breaker.answered(probe=lease.probe)
                    outcome = await deliver(response)
                finally:
                    answered_s = response.last_data_s
                    response.abort()
        except Rejection as rejected:
            outcome = rejected.outcome
            if outcome is Outcome.BROKEN:
                replica.last_error = rejected.error.message
            self._rest(replica, rejected)
            raise
        except EngineError as error:
            outcome = Outcome.BROKEN
            replica.last_error = str(error)
            raise
        finally:
            now_s = self._clock.monotonic()
            record.upstream_s += (answered_s or now_s) - started_s
            judge(lease, outcome, now_s)
            self._telemetry.attempt(replica.pool, replica.name, outcome)
        if hedging is not None:
            hedging.learn((record.first_token_s or answered_s) - started_s, stream=errand.call.stream)

    def _race(self, errand: Errand, record: Record, deliver: Deliver) -> Race:
        def second() -> tuple[Replica, Timeouts] | None:
            hedging = errand.deployment.hedging
            replica = self._choose(errand) if errand.attempts_left else None
            now_s = self._clock.monotonic()
            if replica is None or hedging is None or not hedging.share.spend(now_s):
                return None
            errand.tried.add(replica)
            return replica, errand.spend(now_s)

        return Race(
            self._clock, self._telemetry, errand.deployment, errand.request, record, deliver, second, self._rest
        )

    def _choose(self, errand: Errand) -> Replica | None:
        now_s = self._clock.monotonic()
        tried = errand.tried
        eligible = [
            r
            for r in errand.replicas
            if r.rests_until_s <= now_s and r not in tried and not r.full and r.breaker.allows(now_s)
        ]
        if not eligible:
            return None
        if now_s < self._busy_until_s:
            eligible = [r for r in eligible if r.busy_until_s <= now_s] or eligible
        eligible = admitted(eligible, now_s, self._rng)
        features = Features(len(errand.call.body) // 4, now_s=now_s)
        return eligible[errand.deployment.policy.choose(features, [r.load for r in eligible])]

    def _rest(self, replica: Replica, rejected: Rejection) -> None:
        """A full replica is not asked again for as long as it said, and last if it said nothing."""
        if rejected.outcome is not Outcome.FULL:
            return
        now_s = self._clock.monotonic()
        if rejected.wait_s:
            replica.rests_until_s = now_s + min(rejected.wait_s, MAX_REST_S)
        else:
            replica.busy_until_s = self._busy_until_s = now_s + BUSY_S

    def _nobody(self, errand: Errand) -> None:
        """Say why no replica of the variant may be asked."""
        now_s = self._clock.monotonic()
        name, replicas = errand.variant.name, errand.replicas
        well = [r for r in replicas if r.breaker.allows(now_s)]
        if well:
            wait_s = min(r.rests_until_s - now_s if r.rests_until_s > now_s else 1.0 for r in well)
            reason = "asked to be left alone" if all(r.rests_until_s > now_s for r in well) else _AT_LIMIT
            error: ApiError = Overloaded(f"Every replica of {name!r} {reason}.", retry_after_s=wait_s)
            errand.failed(error, Reason.OVERLOADED, final=True)
            return
        wait_s = max(1.0, min((r.breaker.retry_after_s(now_s) for r in replicas), default=1.0))
        message = f"No replica of {name!r} is healthy; {len(replicas)} are configured."
        errand.failed(NoHealthyBackend(message, retry_after_s=wait_s), Reason.ERROR, final=True)

    def _answer(self, errand: Errand) -> ApiError:
        """That of the deployment asked for, unless another one found fault with the request itself."""
        error = errand.failure if errand.reason is Reason.REQUEST else errand.first or errand.failure
        assert error is not None
        return error


_AT_LIMIT = "is at its `max_in_flight`"


def not_allowed(deployment: Deployment, clearance: Clearance) -> ApiError:
    """The refusal of a call that no replica of the deployment may see."""
    message = (
        f"No pool of {deployment.name!r} may get requests of the class {clearance.name!r}; see `residency.sites` and "
        "`residency.labels`."
    )
    return Forbidden(message, code="residency_violation")
