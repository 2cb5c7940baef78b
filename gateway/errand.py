"""One call on its way through the dispatcher."""

from __future__ import annotations

from collections.abc import Awaitable

import msgspec

from engines.base import EngineRequest, Timeouts
from gateway.catalog import Deployment, Variant
from gateway.errors import ApiError, UpstreamTimeout
from gateway.facts import NOTHING_KNOWN
from gateway.prompts import PromptFacts
from gateway.record import Record, Usage
from gateway.replicas import Lease, Nobody, Replica
from gateway.residency import Clearance
from gateway.spill import Climb
from gateway.upstream import Reason
from gateway.waiting_room import Ticket, Turn
from gateway.wire import Call, body_for
from router.fair_queue import charge
from router.types import Features


class Errand:
    """One call on its way: what is left of its attempts and time, who is asked and who was.

    failure: why the deployment that is asked now has not answered; first: why the one that the caller named has not.
    final:   nobody else of this deployment is to be asked.
    queue:   deployments still to be asked; seen: those that were.
    wake_by_s: until when it waits for a pool that sleeps; 0.0: it has met none.
    facts:   what is known of its prompt, for the deployment that is asked now.
    priority: its class in the queue of that deployment. reading: its prompt, while that is being read.
    entered: whether that deployment has given it a place, or refused one; turn: its turn in the queue; lease: the
             place that came with it.
    cached_tokens, route_reason: of the last choice: how much of the prompt the replica holds, and why it was taken.
    """

    __slots__ = (
        "attempts_left",
        "cached_tokens",
        "call",
        "clearance",
        "climb",
        "deployment",
        "entered",
        "facts",
        "failure",
        "final",
        "first",
        "headers",
        "lease",
        "priority",
        "queue",
        "reading",
        "reason",
        "request",
        "route_reason",
        "seen",
        "started_s",
        "total_s",
        "tried",
        "turn",
        "variant",
        "wake_by_s",
    )

    request: EngineRequest
    variant: Variant

    def __init__(
        self, deployment: Deployment, call: Call, clearance: Clearance, headers: bytes, started_s: float
    ) -> None:
        self.deployment = deployment
        self.call = call
        self.clearance = clearance
        self.climb: Climb | None = None
        self.headers = headers
        self.started_s = started_s
        self.attempts_left = deployment.attempts
        self.total_s = deployment.timeouts.total_s
        self.tried: dict[Replica, float] = {}
        """Who was asked, and when that ended."""
        self.failure: ApiError | None = None
        self.first: ApiError | None = None
        self.reason = Reason.ERROR
        self.final = False
        self.queue: list[Deployment] = []
        self.seen: list[Deployment] = []
        self.wake_by_s = 0.0
        self.facts = NOTHING_KNOWN
        self.priority = 0
        self.reading: Awaitable[PromptFacts] | None = None
        self.entered = False
        self.turn: Turn[Lease | Nobody] | None = None
        self.lease: Lease | None = None
        self.cached_tokens = 0
        self.route_reason = ""

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """Those that may see the call. No other is ever asked."""
        if self.climb is not None:
            return tuple(replica for place in self.climb.places for replica in place.pool.replicas)
        replicas, clearance = self.variant.replicas, self.clearance
        if clearance.pools is None:
            return replicas
        return tuple(r for r in replicas if clearance.admits(r.pool))

    @property
    def reserved(self) -> int:
        """Attempts that are kept for a fallback."""
        return 1 if self.queue or self.deployment.fallbacks.get(self.reason) else 0

    def ask_as(self, variant: Variant, record: Record) -> None:
        """From now on its replicas are asked, by the name that they know."""
        call, engine_model = self.call, variant.engine_model
        record.variant, record.engine_model = variant.name, engine_model
        self.variant = variant
        body = body_for(call, engine_model, variant.limit_words)
        self.request = EngineRequest(call.operation, body, call.stream, self.headers)

    def chose(self, features: Features, index: int) -> None:
        """The policy's answer."""
        cached = self.cached_tokens = features.cached_at(index)
        if self.tried:
            self.route_reason = "retry"
        else:
            self.route_reason = "prefix" if cached and cached == max(features.cached) else "load"

    def only(self) -> None:
        """There was nothing to choose."""
        self.cached_tokens = 0
        self.route_reason = "retry" if self.tried else "only"

    def failed(self, error: ApiError, reason: Reason, *, final: bool) -> None:
        before = self.failure.retry_after_s if self.failure is not None else None
        if before is not None and error.retry_after_s is not None:
            error.retry_after_s = min(error.retry_after_s, before)
        self.failure, self.reason, self.final = error, reason, final

    def shorten_wait(self, now_s: float) -> None:
        """Every replica has asked for time: the caller is told of the shortest wait, also of those not asked now."""
        error = self.failure
        if error is not None and error.retry_after_s is not None:
            rests = [r.rests_until_s - now_s for r in self.replicas if r not in self.tried]
            error.retry_after_s = min([error.retry_after_s, *(rest_s for rest_s in rests if rest_s > 0)])

    @property
    def may_try_again(self) -> bool:
        """Whether somebody else of this deployment may be asked, now that one has failed."""
        return not self.final and self.attempts_left > self.reserved

    def may_wait_again(self, now_s: float) -> bool:
        """Whether to wait for one who is full. A fallback need not wait, nor one who was full to be asked again."""
        if self.failure is None or not self.may_try_again or self.reason is Reason.OVERLOADED:
            return False
        if self.deployment.fallbacks.get(self.reason):
            return False
        return any(
            r.full and r.rests_until_s <= now_s and r.breaker.allows(now_s)
            for r in self.replicas
            if r not in self.tried
        )

    def ticket(self, tenant: str, flow: str) -> Ticket:
        """What it is to the queue."""
        facts = self.facts
        until_s = None if self.total_s is None else self.started_s + self.total_s
        cost = charge(facts.prompt_tokens, facts.output_tokens)
        group = None if self.tried else (self.variant.name, self.clearance.name)
        return Ticket(tenant, cost, self.priority, group, until_s=until_s, flow=flow)

    def answered(self, usage: Usage, *, cut: bool) -> None:
        """What it really took. cut: the answer was ended by its limit."""
        self.failure = None
        self.facts.learn(usage, cut=cut)
        if self.turn is not None:
            uncached = max(0, usage.prompt_tokens - usage.cached_tokens)
            self.turn.settle(charge(uncached, usage.completion_tokens))

    def end_turn(self) -> None:
        """Give back what the queue charged, unless it is settled."""
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.__exit__(None, None, None)

    def ask_again(self) -> None:
        """Whoever could not be reached before."""
        self.failure, self.final, self.entered = None, False, False
        self.tried.clear()
        self.attempts_left = max(1, self.attempts_left)

    def move_on(self, queue: list[Deployment]) -> None:
        """To another deployment. What another model may say otherwise, its replicas are asked even if they were."""
        self.first = self.first or self.failure
        self.failure = None
        if self.reason is Reason.CONTEXT_LENGTH or self.reason is Reason.POLICY:
            self.tried.clear()
        self.final = self.entered = False
        self.end_turn()
        self.queue = queue

    def spend(self, now_s: float) -> Timeouts:
        """Take one attempt; its time limits.

        Raises:
            UpstreamTimeout: the whole request's time is up.
        """
        self.attempts_left -= 1
        limits, total_s = self.deployment.timeouts, self.total_s
        spent_s = now_s - self.started_s
        if total_s is None or (spent_s < 0.001 and not self.seen):
            return limits
        if spent_s >= total_s:
            raise self.out_of_time()
        return msgspec.structs.replace(limits, total_s=total_s - spent_s)

    def out_of_time(self) -> UpstreamTimeout:
        return UpstreamTimeout(f"No answer within total timeout of {self.total_s:g} s.", code="total_timeout")
