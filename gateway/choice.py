"""Which replica a call goes to next, and what is put on its books."""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Iterable, Sequence

from gateway.clock import Clock
from gateway.config.queue_options import QueueOptions
from gateway.errand import Errand
from gateway.errors import ApiError, NoHealthyBackend, Overloaded
from gateway.record import Record, Usage
from gateway.replicas import NOBODY, Lease, Nobody, Replica, admitted
from gateway.spill import Climb, Forecast, Rung, Step, best_of
from gateway.standing import ALL_ALIKE, Standing
from gateway.telemetry import Telemetry
from gateway.upstream import Outcome, Reason, Rejection
from gateway.waiting_room import LATER, Later, WaitingRoom
from router.fair_queue import RESERVE
from router.load import ReplicaLoad
from router.prefix import Certainty, PrefixIndex
from router.types import Features

MAX_REST_S = 60.0
"""An engine that asks to be left alone for longer is asked again after this."""
BUSY_S = 0.25
"""A full engine that says nothing of waiting is asked last for this long: it refuses fast, which looks like speed."""
SECOND_CHANCE_S = 1.0
"""A call whose every replica failed it may ask one again that failed this long ago."""
STRICT_S = 0.02
"""Prefill that may lie ahead of a request whose tenant has had its share, while others are about: what the engine does
until the gateway looks again."""
MOST_TRIP_S = 0.1
"""And as much as takes the next request there, but no more than this."""
STEP_TOKENS = 4096
"""Uncached prompt tokens that an engine takes on at once: half of what most let into one step."""
LEAST_OBSERVATIONS = 8
MOST_UNKNOWN = 32
"""Requests that wait at a replica of which nobody knows how fast it is."""
_AT_LIMIT = "is at its `max_in_flight`"


class Veto(enum.StrEnum):
    """Why a replica is not asked now."""

    RESTING = "resting"
    """It asked to be left alone for some time."""
    FULL = "max_in_flight"
    BREAKER = "breaker"


class Hold(enum.StrEnum):
    """Why a call is better kept in the gateway than sent to a replica."""

    KV_FULL = "kv_cache_full"
    PROMPTS_AHEAD = "prompts_ahead"


class Chooser:
    """Asks the policy, keeps the books, and learns from what came back.

    index: what the replicas hold in their KV caches.
    """

    def __init__(self, clock: Clock, rng: random.Random, index: PrefixIndex) -> None:
        self._clock = clock
        self._rng = rng
        self._index = index
        self.rooms: list[WaitingRoom[Lease | Nobody]] = []
        """Told when a place may be free."""
        self._busy_until_s = 0.0
        """Until when some replica is to be asked last."""

    def open_room(
        self, name: str, options: QueueOptions, telemetry: Telemetry, standing: Standing = ALL_ALIKE
    ) -> WaitingRoom[Lease | Nobody]:
        """Where the calls of a deployment wait."""

        def release(claim: Lease | Nobody) -> None:
            if isinstance(claim, Lease):
                self.drop(claim)

        room = WaitingRoom(name, options, self._clock, telemetry, release, standing)
        self.rooms.append(room)
        return room

    def claim(self, errand: Errand, record: Record, *, strict: bool) -> Lease | Nobody | Later | None:
        """A place for a call that may wait for one.

        `LATER`: the replica that is best for it has too much to do. None: all have.

        strict: it may not keep others waiting.
        """
        now_s, climb = self._clock.monotonic(), errand.climb
        hold_over_s = STRICT_S if strict else errand.deployment.hold_over_s
        if climb is not None:
            self._climb(errand, climb, now_s, hold_over_s, waits=True)
        nowhere = None if climb is None else LATER  # others may have another target
        if strict and not spare_places(errand.replicas):
            return nowhere
        eligible = self.eligible(errand, now_s)
        if not eligible:
            return nowhere if may_be_waited_for(errand.replicas, now_s) else NOBODY
        if climb is not None and climb.spilling and hold_over_s is not None:
            eligible = [r for r in eligible if has_room(r.load, now_s, hold_over_s)]
            if not eligible:
                return nowhere
        chosen = self._choose(errand, eligible, now_s)
        if hold_over_s is None or has_room(chosen.load, now_s, hold_over_s):
            return self._lease(errand, chosen, record, now_s)
        return LATER if any(has_room(r.load, now_s, hold_over_s) for r in eligible) else nowhere

    def take(self, errand: Errand, record: Record) -> Lease | None:
        """A place at the replica that the policy chooses. None: nobody may be asked now; `nobody` says why."""
        now_s = self._clock.monotonic()
        if errand.climb is not None:
            self._climb(errand, errand.climb, now_s)
        eligible = self.eligible(errand, now_s)
        return self._lease(errand, self._choose(errand, eligible, now_s), record, now_s) if eligible else None

    def _climb(
        self, errand: Errand, climb: Climb, now_s: float, most_s: float | None = None, *, waits: bool = False
    ) -> None:
        """Open what the call may be sent to. A replica without a place is as far away as the queue is long."""
        room = errand.deployment.room
        queue_s = max(now_s - errand.started_s, room.ahead_s()) if waits and room is not None else math.inf

        def outlook(step: Step) -> Forecast:
            there = [
                r
                for place in step.places
                for r in place.pool.replicas
                if r not in errand.tried and r.rests_until_s <= now_s and r.breaker.allows(now_s)
            ]
            if not there:
                for waker in (place.pool.waker for place in step.places if place.pool.waker is not None):
                    waker.nudge()
            queued = [
                queue_s if r.full or (most_s is not None and not has_room(r.load, now_s, most_s)) else 0.0
                for r in there
            ]
            return best_of([r.load for r in there], self.features(errand, there, now_s), queued)

        climb.open(outlook, self.features(errand, [], now_s), partial=bool(errand.tried))

    def _choose(self, errand: Errand, eligible: list[Replica], now_s: float) -> Replica:
        eligible = self.asked_first(eligible, now_s)
        if len(eligible) == 1:
            errand.only()
            return eligible[0]
        eligible = admitted(eligible, now_s, self._rng)
        features = self.features(errand, eligible, now_s)
        chosen = errand.deployment.policy.choose(features, [r.load for r in eligible])
        errand.chose(features, chosen)
        return eligible[chosen]

    def asked_first(self, eligible: list[Replica], now_s: float) -> list[Replica]:
        """Without those that were full a moment ago, unless all were."""
        if now_s < self._busy_until_s:
            return [r for r in eligible if r.busy_until_s <= now_s] or eligible
        return eligible

    def eligible(self, errand: Errand, now_s: float) -> list[Replica]:
        """Those not asked yet; if there is none, those whose failure is some time ago: they may be back."""
        tried = errand.tried
        # As `vetoes` has it, without a list for each of them.
        willing = [r for r in errand.replicas if r.rests_until_s <= now_s and not r.full and r.breaker.allows(now_s)]
        if not tried:
            return willing
        fresh = [r for r in willing if r not in tried]
        return fresh or [r for r in willing if tried[r] + SECOND_CHANCE_S <= now_s]

    def features(self, errand: Errand, replicas: list[Replica], now_s: float) -> Features:
        """What the policy is told of the call."""
        facts = errand.facts
        cached: list[int] = []
        if facts.prefix.keys and errand.deployment.policy.needs_prefix:
            held = self._index.match(facts.prefix)
            prompt_tokens = facts.prompt_tokens
            cached = [min(held[r.slot.bit], prompt_tokens) if r.slot is not None else 0 for r in replicas]
        return Features(facts.prompt_tokens, facts.output_tokens, cached, facts.session, now_s)

    def _lease(self, errand: Errand, replica: Replica, record: Record, now_s: float) -> Lease:
        """Put the call on the replica's books."""
        errand.tried[replica] = math.inf
        facts, load = errand.facts, replica.load
        cached = min(errand.cached_tokens, facts.prompt_tokens)
        record.chosen_s = now_s
        record.predicted_ttft_s = predicted_ttft_s(load, facts.prompt_tokens, cached, now_s)
        record.predicted_cached_tokens = cached
        record.prefix = facts.prefix
        record.route_reason = errand.route_reason
        slot = replica.slot
        if slot is not None and facts.prefix.keys and errand.deployment.policy.needs_prefix:
            self._index.insert(slot, facts.prefix)
        streamed = errand.call.stream
        lease = replica.lease(now_s, facts.prompt_tokens, cached, facts.output_tokens, streamed=streamed)
        if errand.climb is not None:
            variant, rung, lease.bill = errand.climb.take(replica.pool, now_s)
            if variant is not errand.variant:
                errand.ask_as(variant, record)
            if rung is not Rung.PRIMARY:
                record.route_reason = rung
        return lease

    def ended(self, errand: Errand, lease: Lease, outcome: Outcome, usage: Usage) -> None:
        """An attempt is over: what it says of the replica's cache and speed."""
        errand.tried[lease.replica] = now_s = self._clock.monotonic()
        for room in self.rooms:
            room.wake()
        slot, prefix = lease.replica.slot, errand.facts.prefix
        judge(lease, outcome, now_s)
        if lease.bill is not None and (outcome is not Outcome.ABANDONED or usage.prompt_tokens):
            lease.bill.settle(usage)  # of what was given up nobody tells the cost: the expected one stands
        told = outcome is Outcome.FINE and usage.cached_told
        if told:
            lease.work.close(usage.prompt_tokens, min(usage.cached_tokens, usage.prompt_tokens))
        else:
            lease.work.close()
        if slot is None or not prefix.keys:
            return
        if outcome is Outcome.BROKEN or slot.certainty is Certainty.EXACT:
            self._index.forget(slot, prefix)  # it was not computed, or the engine tells of it itself
        if told:
            slot.answered(lease.work.cached_tokens, usage.cached_tokens)

    def drop(self, lease: Lease) -> None:
        """A place that nobody took."""
        lease.give_back()
        if lease.bill is not None:
            lease.bill.settle()
        judge(lease, Outcome.ABANDONED, self._clock.monotonic())
        for room in self.rooms:
            room.wake()

    def refused(self, replica: Replica, rejected: Rejection) -> None:
        """A full replica is not asked again for as long as it said, and last if it said nothing."""
        if rejected.outcome is not Outcome.FULL:
            return
        now_s = self._clock.monotonic()
        if rejected.wait_s:
            replica.rests_until_s = now_s + min(rejected.wait_s, MAX_REST_S)
        else:
            replica.busy_until_s = self._busy_until_s = now_s + BUSY_S

    def nobody(self, errand: Errand) -> None:
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


def judge(lease: Lease, outcome: Outcome, now_s: float) -> None:
    """Tell the breaker how an attempt ended."""
    breaker = lease.replica.breaker
    if outcome is Outcome.FINE:
        breaker.succeeded()
    elif outcome is Outcome.BROKEN:
        breaker.failed(now_s, probe=lease.probe)
    else:
        breaker.abandoned(probe=lease.probe)


def vetoes(replica: Replica, now_s: float) -> list[Veto]:
    """All that keeps calls from a replica now. Nothing: it may be asked."""
    found: list[Veto] = []
    if replica.rests_until_s > now_s:
        found.append(Veto.RESTING)
    if replica.full:
        found.append(Veto.FULL)
    if not replica.breaker.allows(now_s):
        found.append(Veto.BREAKER)
    return found


def may_be_waited_for(replicas: Iterable[Replica], now_s: float) -> bool:
    """Whether any of them lacks nothing but a place."""
    return any(vetoes(r, now_s) in ([], [Veto.FULL]) for r in replicas)


def predicted_ttft_s(load: ReplicaLoad, prompt_tokens: int, cached_tokens: int, now_s: float) -> float:
    """Of a call that is sent there now."""
    return load.backlog_s(now_s) + load.speed.prefill_s(prompt_tokens, cached_tokens) + load.speed.fixed_s


def spare_places(replicas: Sequence[Replica]) -> bool:
    """Whether more places are free than are best kept for those who had less than their share."""
    places, taken = 0, 0
    for replica in replicas:
        if replica.max_in_flight is None:
            return True
        places += replica.max_in_flight
        taken += replica.in_flight
    return places - taken > places * RESERVE


def has_room(load: ReplicaLoad, now_s: float, hold_over_s: float) -> bool:
    """Whether a request is better sent there than kept."""
    return held_for(load, now_s, hold_over_s) is None


def held_for(load: ReplicaLoad, now_s: float, hold_over_s: float) -> Hold | None:
    """Why a request is better kept than sent there: what has not begun can still go elsewhere, or let others pass.

    A few prompts are always let in, which engines prefill together, but not where somebody may come who goes first.
    """
    if load.kv_usage() >= 1.0 and load.in_flight:
        return Hold.KV_FULL
    strict = hold_over_s <= STRICT_S
    if load.prefill_tokens < (1 if strict else STEP_TOKENS):
        return None
    if load.speed.observations < LEAST_OBSERVATIONS and load.waiting < MOST_UNKNOWN:
        return None
    if strict:
        hold_over_s += min(load.speed.fixed_s, MOST_TRIP_S)
    return Hold.PROMPTS_AHEAD if load.backlog_s(now_s) > hold_over_s else None
