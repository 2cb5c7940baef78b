"""Finds a replica for a call and tries again elsewhere, until the first byte has gone to the client."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping

from engines.base import EngineError, EngineResponse, EngineTimeout, Timeouts
from gateway.catalog import Deployment
from gateway.choice import Chooser
from gateway.clock import Clock
from gateway.errand import Errand
from gateway.errors import ApiError, Forbidden, Overloaded
from gateway.facts import of_prompt, rough
from gateway.priority import priority_of
from gateway.prompts import PromptFacts
from gateway.race import Race
from gateway.record import Record
from gateway.replicas import Lease, Nobody
from gateway.residency import Clearance
from gateway.standing import ALL_ALIKE, Standing
from gateway.telemetry import Telemetry
from gateway.upstream import Outcome, Reason, Rejection, from_engine_error
from gateway.waiting_room import WaitingRoom
from gateway.waking import sleeper
from gateway.wire import Call
from router.load import Work

logger = logging.getLogger(__name__)

Deliver = Callable[[EngineResponse, Work], Awaitable[Outcome]]
"""Takes an engine's answer to the client, and tells the books of its first token. Raises only while nothing has been
sent, so that another may be tried."""

Room = WaitingRoom[Lease | Nobody]

NO_HEADERS: Mapping[bytes, bytes] = {}


class Dispatcher:
    """Sends a call to the replica that the policy chooses, within one budget of attempts and time (A19)."""

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        telemetry: Telemetry,
        chooser: Chooser,
        standing: Standing = ALL_ALIKE,
    ) -> None:
        self._clock = clock
        self._standing = standing
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
        asked_with: Mapping[bytes, bytes] = NO_HEADERS,
    ) -> None:
        """Returns when the answer, whole or broken off, is with the client.

        headers: lines for the engine. asked_with: the client's own, names in lower case.

        Raises:
            ApiError: no replica gave an answer, and nothing was sent to the client.
        """
        errand = Errand(deployment, call, clearance, headers, self._clock.monotonic())
        try:
            self._begin(errand, deployment, record)
            while True:
                if not errand.entered and not self._enters_at_once(errand, record, asked_with):
                    await self._enter(errand, record, asked_with)
                lease = self._next(errand, record) or await self._next_in_turn(errand, record)
                if lease is not None:
                    try:
                        await self._attempt(lease, errand, record, deliver)
                        break
                    except (Rejection, EngineError) as error:
                        _note(errand, error.with_traceback(None))  # it leads to who holds the exception: a cycle
                elif not await self._awake(errand) and not self._fall_back(errand, record):
                    raise self._answer(errand)
            errand.answered(record.usage, cut=record.finish_reason == "length")
        finally:
            errand.end_turn()
            errand.failure = errand.first = None  # what they lead to holds them: a cycle

    def _begin(self, errand: Errand, deployment: Deployment, record: Record) -> None:
        """From now on it is `deployment` that is asked."""
        needs, clearance = deployment.menu.needs_of(errand.call), errand.clearance
        if deployment.ladder is not None:
            errand.climb = deployment.ladder.climb(self._rng, clearance, needs, record.tenant)
            variant = None if errand.climb is None else errand.climb.route.variant
        else:
            errand.climb, variant = None, deployment.draw_variant(self._rng, clearance, needs)
        if variant is None:
            refused = not deployment.admits(clearance)
            raise not_allowed(deployment, clearance) if refused else deployment.menu.refusal(deployment.name, needs)
        errand.deployment = deployment
        errand.ask_as(variant, record)
        deployment.retries.earn()
        if deployment.hedging is not None:
            deployment.hedging.share.earn()

    def _enters_at_once(self, errand: Errand, record: Record, asked_with: Mapping[bytes, bytes]) -> bool:
        """Read the prompt and take a place, as far as nothing has to be waited for: else it goes on with `_enter`."""
        errand.entered = True
        errand.end_turn()
        variant, call = errand.variant, errand.call
        reader = variant.reader
        keys = variant.has_choice or self._telemetry.marks_prefixes
        if reader is not None and (keys or call.reading is not None):
            read = reader.read(call, asked_with, variant.block_sizes) if keys else reader.measure(call, asked_with)
            if not isinstance(read, PromptFacts):
                errand.reading = read
                return False
            errand.facts = of_prompt(read, reader)
        else:
            errand.facts = rough(call)
        return self._passes(errand, record, asked_with)

    async def _enter(self, errand: Errand, record: Record, asked_with: Mapping[bytes, bytes]) -> None:
        """Wait until the prompt is read, and for a place: `errand.lease`, unless nobody can be waited for."""
        reading, reader, room = errand.reading, errand.variant.reader, errand.deployment.room
        if reading is not None and reader is not None:
            errand.reading = None
            errand.facts = of_prompt(await reading, reader)
            if self._passes(errand, record, asked_with):
                return
        assert room is not None
        try:
            errand.lease = await self._wait(room, errand, record)
        except Overloaded as error:
            errand.failed(error.with_traceback(None), Reason.OVERLOADED, final=True)

    def _passes(self, errand: Errand, record: Record, asked_with: Mapping[bytes, bytes]) -> bool:
        """Whether it need not wait in the queue: there is none for it, or nobody is about and there is a place."""
        deployment = errand.deployment
        room = deployment.room
        if deployment.queue is not None:
            usual = self._standing.priority(record.tenant)
            errand.priority = priority_of(record.key_name, asked_with, deployment.queue, usual)
        if room is None or deployment.fallbacks.get(Reason.OVERLOADED):
            return True
        if not room.lets_pass(record.tenant):
            return False
        claimed = self._chooser.claim(errand, record, strict=False)
        if not isinstance(claimed, Lease):
            return False
        errand.lease = claimed
        self._telemetry.queue_wait(deployment.name, 0.0)
        return True

    async def _wait(self, room: Room, errand: Errand, record: Record) -> Lease | None:
        """For a place, which is returned, unless nobody can be waited for.

        Raises:
            Overloaded: it is not to wait, or has waited too long.
        """
        ticket = errand.ticket(record.tenant, record.flow)
        turn = await room.enter(ticket, lambda strict: self._chooser.claim(errand, record, strict=strict))
        errand.turn = turn
        record.queue_position, record.queued_s = turn.position, record.queued_s + turn.queued_s
        return turn.claim if isinstance(turn.claim, Lease) else None

    def _next(self, errand: Errand, record: Record) -> Lease | None:
        """A place at whom to ask next; None: this deployment has had its chance, and `errand.failure` says why."""
        if errand.failure is None:
            lease, errand.lease = errand.lease or self._chooser.take(errand, record), None
            if lease is None:
                self._chooser.nobody(errand)
            return lease
        if not errand.may_try_again:
            return None
        lease = self._chooser.take(errand, record)
        if lease is None and errand.reason is Reason.OVERLOADED:
            errand.shorten_wait(self._clock.monotonic())
        if lease is not None and not self._may_retry(errand, record):
            self._chooser.drop(lease)
            return None
        return lease

    async def _next_in_turn(self, errand: Errand, record: Record) -> Lease | None:
        """A place for one more attempt, waited for, where those not asked yet lack nothing but that (R04)."""
        room = errand.deployment.room
        if room is None or not errand.may_wait_again(self._clock.monotonic()) or not self._may_retry(errand, record):
            return None
        errand.end_turn()
        try:
            return await self._wait(room, errand, record)
        except Overloaded:
            return None  # the failure that it met is the answer

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
            if deployment in errand.seen or not deployment.serves(errand.call, errand.clearance):
                continue
            asked = errand.seen[0].name
            self._telemetry.fallback(asked, deployment.name, errand.reason)
            record.fallback, record.fallback_reason = deployment.name, errand.reason
            errand.move_on(queue)
            self._begin(errand, deployment, record)
            return True
        return False

    async def _attempt(self, lease: Lease, errand: Errand, record: Record, deliver: Deliver) -> None:
        started_s = self._clock.monotonic()
        limits = self._limits(lease, errand, started_s)
        hedging = errand.deployment.hedging
        if hedging is not None:
            delay_s = hedging.delay_s(stream=errand.call.stream)
            if delay_s is not None:
                await self._race(errand, record, deliver).run(lease, limits, delay_s)
                return
        replica = lease.replica
        record.attempts += 1
        record.pool, record.replica, record.engine_kind = replica.pool, replica.name, replica.kind
        outcome, answered_s = Outcome.ABANDONED, 0.0
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
            self._chooser.ended(errand, lease, outcome, record.usage)
            self._telemetry.attempt(replica.pool, replica.name, outcome)
        if hedging is not None:
            hedging.learn((record.first_token_s or answered_s) - started_s, stream=errand.call.stream)

    def _limits(self, lease: Lease, errand: Errand, now_s: float) -> Timeouts:
        """Of one more attempt."""
        try:
            return errand.spend(now_s)
        except ApiError:
            self._chooser.drop(lease)
            raise

    def _race(self, errand: Errand, record: Record, deliver: Deliver) -> Race:
        def second() -> tuple[Lease, Timeouts] | None:
            hedging, now_s = errand.deployment.hedging, self._clock.monotonic()
            lease = self._chooser.take(errand, record) if errand.attempts_left else None
            if lease is None or hedging is None:
                return None
            if hedging.share.spend(now_s):
                return lease, self._limits(lease, errand, now_s)
            self._chooser.drop(lease)
            return None

        return Race(self._clock, self._telemetry, self._chooser, errand, record, deliver, second)

    def _answer(self, errand: Errand) -> ApiError:
        """That of the deployment asked for, unless another one found fault with the request itself."""
        error = errand.failure if errand.reason is Reason.REQUEST else errand.first or errand.failure
        assert error is not None
        return error


def _note(errand: Errand, error: Rejection | EngineError) -> None:
    """An attempt gave no answer."""
    if isinstance(error, Rejection):
        errand.failed(error.error, error.reason, final=error.outcome is Outcome.FINE)
    elif isinstance(error, EngineTimeout) and error.phase == "total":
        errand.failed(errand.out_of_time(), Reason.ERROR, final=True)
    else:
        errand.failed(from_engine_error(error), Reason.ERROR, final=False)


def not_allowed(deployment: Deployment, clearance: Clearance) -> ApiError:
    """The refusal of a call that no replica of the deployment may see."""
    message = (
        f"No pool of {deployment.name!r} may get requests of the class {clearance.name!r}; see `residency.sites` and "
        "`residency.labels`."
    )
    return Forbidden(message, code="residency_violation")
