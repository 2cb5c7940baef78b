"""Says how a request would be routed now, from the books that it would be routed by, and changes none of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Container, Mapping

from engines.base import Operation
from gateway.catalog import Catalog, Deployment, Variant
from gateway.choice import (
    STRICT_S,
    Chooser,
    Hold,
    Veto,
    held_for,
    may_be_waited_for,
    predicted_ttft_s,
    spare_places,
    vetoes,
)
from gateway.classifier import Classifier
from gateway.clock import Clock
from gateway.errand import Errand
from gateway.explanation import (
    Explanation,
    Note,
    PromptReport,
    QueueReport,
    ReplicaView,
    SpeedReport,
    VariantReport,
)
from gateway.facts import Facts, of_prompt, rough
from gateway.http import Request
from gateway.identity import Caller
from gateway.pool_report import State, states
from gateway.priority import priority_of
from gateway.prompts import PromptFacts
from gateway.replicas import Replica, admitted
from gateway.residency import Residency
from gateway.standing import ALL_ALIKE, Standing
from gateway.upstream import Reason
from gateway.wire import Call, read_call
from router.breaker import BreakerState
from router.policies import POLICIES
from router.types import Policy

DRAWS = 50
"""So often a choice is made to see how chance has a part in it."""

_SPILLS = Note("spill", "it spills: clouds and smaller variants get requests only while those before them are too slow")

Twin = Callable[[Policy, random.Random], Policy]
"""What a deployment asks in place of its policy, with randomness of its own."""


class Explainer:
    """One for a worker.

    policies: names, by deployment.
    twin:     see `Twin`.
    worker:   its number; None: the books are empty, for want of a running gateway.
    clean:    takes secrets out of what engines have said.
    """

    def __init__(
        self,
        catalog: Catalog,
        chooser: Chooser,
        residency: Residency,
        clock: Clock,
        policies: Mapping[str, str],
        twin: Twin,
        *,
        classifier: Classifier | None = None,
        standing: Standing = ALL_ALIKE,
        worker: int | None = None,
        clean: Callable[[str], str] = str,
    ) -> None:
        self._catalog = catalog
        self._chooser = chooser
        self._residency = residency
        self._clock = clock
        self._policies = policies
        self._twin = twin
        self._classifier = classifier
        self._standing = standing
        self._worker = worker
        self._clean = clean

    async def explain(self, operation: Operation, request: Request, caller: Caller) -> Explanation:
        """As if the caller had sent the request as a model call.

        Raises:
            ApiError: the call would be refused before it is routed.
        """
        call = read_call(operation, request)
        deployment = self._catalog.resolve(call.model, caller)
        clearance = self._residency.decide(caller, request)
        if self._classifier is not None:
            clearance = await self._classifier.tightened(clearance, call)
        priority, usual = 0, self._standing.priority(caller.tenant)
        if deployment.queue is not None:
            priority = priority_of(caller.key_name, request.headers, deployment.queue, usual)
        needs = deployment.menu.needs_of(call)
        fitting = {
            v.name for v in deployment.menu.fitting([v for v in deployment.variants if v.admits(clearance)], needs)
        }
        shares = _shares(deployment, fitting)
        variants = []
        for variant in deployment.variants:
            facts = await _read(variant, call, request.headers)
            errand = Errand(deployment, call, clearance, b"", self._clock.monotonic())
            errand.variant, errand.facts = variant, facts
            unfit = variant.admits(clearance) and variant.name not in fitting
            inquiry = Inquiry(self._chooser, errand, self._clock.monotonic(), self._clean, unfit=unfit)
            inquiry.draw(self._policies[deployment.name], self._twin)
            strict = deployment.room is not None and deployment.room.is_strict_with(caller.tenant)
            variants.append(
                VariantReport(
                    variant.name,
                    variant.engine_model,
                    variant.weight,
                    shares.get(variant.name, 0.0),
                    _of_prompt(facts),
                    inquiry.queue(priority, strict=strict),
                    inquiry.replicas(strict=strict),
                    _empty_pools(variant),
                )
            )
        return Explanation(
            self._worker,
            deployment.name,
            self._policies[deployment.name],
            operation.value,
            call.stream,
            caller.key_name,
            caller.tenant,
            clearance.name,
            variants,
            [] if deployment.ladder is None else [_SPILLS],
        )


class Inquiry:
    """One call, and the replicas of one variant, at one instant.

    unfit: the variant does not offer what the call needs.
    """

    def __init__(
        self, chooser: Chooser, errand: Errand, now_s: float, clean: Callable[[str], str], *, unfit: bool
    ) -> None:
        self._chooser = chooser
        self._errand = errand
        self._now_s = now_s
        self._clean = clean
        self._unfit = unfit
        drawn = errand.variant.weight and not unfit
        self._eligible = chooser.eligible(errand, now_s) if drawn else []
        self._first = chooser.asked_first(self._eligible, now_s)
        self._chances: Counter[Replica] = Counter()
        self._terms: dict[Replica, Mapping[str, float]] = {}

    def draw(self, name: str, twin: Twin) -> None:
        """Find out who would be chosen. name: of the policy."""
        if not self._first:
            return
        errand, now_s = self._errand, self._now_s
        policy, loads = errand.deployment.policy, [r.load for r in self._first]
        features = self._chooser.features(errand, self._first, now_s)
        terms = policy.terms(features, loads)
        self._terms = dict(zip(self._first, terms, strict=True))
        rng = random.Random(0)  # noqa: S311 - spreads load, guards nothing
        fresh = twin(POLICIES[name](rng), rng)
        if fresh.terms(features, loads) != terms:
            # The policy has a turn in mind, as `round_robin` does: its own terms say whose it is.
            lowest = min(self._first, key=lambda r: self._terms[r]["cost"])
            self._chances[lowest] = DRAWS
            return
        for _ in range(DRAWS):
            among = admitted(self._first, now_s, rng)
            features = self._chooser.features(errand, among, now_s)
            fresh = twin(POLICIES[name](rng), rng)  # each with nothing in mind
            self._chances[among[fresh.choose(features, [r.load for r in among])]] += 1

    def queue(self, priority: int, *, strict: bool) -> QueueReport:
        deployment = self._errand.deployment
        room = deployment.room
        if deployment.fallbacks.get(Reason.OVERLOADED):
            room = None  # its calls do not wait: another deployment answers
        hold_over_s = None if room is None else deployment.hold_over_s
        report = QueueReport("sent", "", priority, 0 if room is None else len(room), hold_over_s)
        if not self._eligible:
            waits = room is not None and may_be_waited_for(self._errand.replicas, self._now_s)
            report.outcome = "waits" if waits and self._errand.variant.weight and not self._unfit else "refused"
            report.reason = "no replica may be asked now"
        elif room is not None and strict and not spare_places(self._errand.replicas):
            report.outcome, report.reason = "waits", "the last places are kept for tenants that had less"
        elif room is not None and len(room):
            report.outcome, report.reason = "waits", f"{len(room)} requests wait already"
        elif hold_over_s is not None:
            held = self._held(max(self._chances, key=self._chances.__getitem__), strict=strict)
            if held is not None:
                report.outcome, report.reason = "waits", f"the replica that is best for it: {held.text}"
        return report

    def replicas(self, *, strict: bool) -> list[ReplicaView]:
        everyone = [one for pool in self._errand.variant.pools for one in states(pool, self._now_s)]
        features = self._chooser.features(self._errand, [replica for replica, _ in everyone], self._now_s)
        most = max(self._chances.values(), default=0)
        return [
            self._replica(replica, state, features.cached_at(i), most, strict=strict)
            for i, (replica, state) in enumerate(everyone)
        ]

    def _replica(self, replica: Replica, state: State, cached: int, most: int, *, strict: bool) -> ReplicaView:
        load, speed, now_s = replica.load, replica.load.speed, self._now_s
        chosen = self._chances[replica]
        against = self._vetoes(replica, state)
        knows = replica.slot is not None and self._errand.deployment.policy.needs_prefix
        return ReplicaView(
            name=replica.name,
            pool=replica.pool,
            site=replica.site,
            chosen=chosen > most / 2,
            chance=chosen / DRAWS,
            terms=dict(self._terms.get(replica, {})),
            predicted_ttft_s=predicted_ttft_s(load, self._errand.facts.prompt_tokens, cached, now_s),
            cached_tokens=cached,
            cached_known=replica.slot.certainty.value if knows and replica.slot is not None else "none",
            speed=SpeedReport(1.0 / max(speed.s_per_token, 1e-9), speed.fixed_s, speed.observations),
            in_flight=load.in_flight,
            waiting=load.waiting,
            backlog_s=load.backlog_s(now_s),
            kv_usage=load.kv_usage() if load.kv_capacity_tokens else None,
            vetoes=against,
            notes=[] if against else self._notes(replica, strict=strict),
        )

    def _vetoes(self, replica: Replica, state: State) -> list[Note]:
        errand = self._errand
        found = []
        if not errand.variant.weight:
            found.append(Note("weight", f"variant {errand.variant.name!r} has weight 0"))
        if self._unfit:
            found.append(Note("capabilities", f"variant {errand.variant.name!r} does not offer what the request needs"))
        if not errand.clearance.admits(replica.pool):
            found.append(Note("residency", f"pool {replica.pool!r} may get nothing of class {errand.clearance.name!r}"))
        if state == "warming":
            found.append(Note("warming", "is to answer its warm-up request first"))
        if state == "draining":
            found.append(Note("draining", f"is gone from the pool, and finishes {replica.in_flight} requests"))
        return found + [self._veto(replica, state, veto) for veto in vetoes(replica, self._now_s)]

    def _veto(self, replica: Replica, state: State, veto: Veto) -> Note:
        now_s = self._now_s
        if veto is Veto.RESTING:
            return Note(veto.value, f"asked to be left alone for another {replica.rests_until_s - now_s:.1f} s")
        if veto is Veto.FULL:
            return Note(veto.value, f"has {replica.in_flight} in flight; max_in_flight is {replica.max_in_flight}")
        error = f"; last error: {self._clean(replica.last_error)}" if replica.last_error else ""
        if state == "asleep":
            return Note("asleep", f"its pool sleeps, and is woken by a request{error}")
        if replica.breaker.state(now_s) is BreakerState.HALF_OPEN:
            return Note(veto.value, f"another request is finding out if it is back{error}")
        return Note(veto.value, f"its breaker is open for another {replica.breaker.retry_after_s(now_s):.1f} s{error}")

    def _notes(self, replica: Replica, *, strict: bool) -> list[Note]:
        now_s = self._now_s
        found = []
        if replica not in self._first:
            found.append(Note("busy", f"was full, and is asked last for {replica.busy_until_s - now_s:.2f} s"))
        if replica.breaker.state(now_s) is BreakerState.HALF_OPEN:
            found.append(Note("half_open", "this request would find out if it is back"))
        share = 1.0 if replica.ramp is None else replica.ramp.share(now_s)
        if share < 1.0:
            found.append(Note("slow_start", f"gets {share:.0%} of its traffic yet"))
        held = self._held(replica, strict=strict)
        return found if held is None else [*found, held]

    def _held(self, replica: Replica, *, strict: bool) -> Note | None:
        """Why the request would wait for it."""
        hold_over_s, load = self._errand.deployment.hold_over_s, replica.load
        if hold_over_s is None:
            return None
        limit_s = STRICT_S if strict else hold_over_s
        hold = held_for(load, self._now_s, limit_s)
        if hold is None:
            return None
        if hold is Hold.KV_FULL:
            return Note(hold.value, f"its KV cache is spoken for ({load.kv_usage():.0%})")
        limit = f"{limit_s:g} s while tenants compete" if strict else f"queue.hold_over_s, {limit_s:g} s"
        return Note(hold.value, f"{load.backlog_s(self._now_s):.2f} s of prompts are ahead; the limit is {limit}")


def _shares(deployment: Deployment, fitting: Container[str]) -> dict[str, float]:
    """Of the calls that these variants can serve, how many draw each."""
    weights = {v.name: v.weight for v in deployment.variants if v.weight and v.name in fitting}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


async def _read(variant: Variant, call: Call, headers: Mapping[bytes, bytes]) -> Facts:
    reader = variant.reader
    if reader is None:
        return rough(call)
    read = reader.read(call, headers, variant.block_sizes)
    return of_prompt(read if isinstance(read, PromptFacts) else await read, reader)


def _of_prompt(facts: Facts) -> PromptReport:
    read, keys = facts.read, facts.prefix.keys
    return PromptReport(
        prompt_tokens=facts.prompt_tokens,
        counted=read is not None and not read.estimated,
        output_tokens=facts.output_tokens,
        prefix_blocks=len(keys),
        block_tokens=facts.prefix.block_tokens if keys else 0.0,
        blocks_of="none" if read is None or not keys else "tokens" if read.exact else "bytes",
        session=facts.session,
        adapter="" if read is None else read.adapter,
        cache_salt=read is not None and bool(read.salt),
    )


def _empty_pools(variant: Variant) -> list[Note]:
    return [Note("empty", f"pool {pool.name!r} has no replicas now") for pool in variant.pools if not pool.everyone]
