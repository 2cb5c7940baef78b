"""Which replica a call goes to next, and what is put on its books."""

from __future__ import annotations

import random

from gateway.clock import Clock
from gateway.errand import Errand
from gateway.errors import ApiError, NoHealthyBackend, Overloaded
from gateway.record import Record, Usage
from gateway.replicas import Lease, Replica, admitted
from gateway.upstream import Outcome, Reason, Rejection
from router.prefix import Certainty, PrefixIndex
from router.types import Features

MAX_REST_S = 60.0
"""An engine that asks to be left alone for longer is asked again after this."""
BUSY_S = 0.25
"""A full engine that says nothing of waiting is asked last for this long: it refuses fast, which looks like speed."""
_AT_LIMIT = "is at its `max_in_flight`"


class Chooser:
    """Asks the policy, keeps the books, and learns from what came back.

    index: what the replicas hold in their KV caches.
    """

    def __init__(self, clock: Clock, rng: random.Random, index: PrefixIndex) -> None:
        self._clock = clock
        self._rng = rng
        self._index = index
        self._busy_until_s = 0.0
        """Until when some replica is to be asked last."""

    def choose(self, errand: Errand) -> Replica | None:
        """None: nobody may be asked now. `nobody` says why."""
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
        features = self.features(errand, eligible, now_s)
        chosen = errand.deployment.policy.choose(features, [r.load for r in eligible])
        errand.chose(features, chosen, len(eligible))
        return eligible[chosen]

    def features(self, errand: Errand, replicas: list[Replica], now_s: float) -> Features:
        """What the policy is told of the call."""
        facts = errand.facts
        cached: list[int] = []
        if facts.prefix.keys and errand.deployment.policy.needs_prefix:
            held = self._index.match(facts.prefix)
            prompt_tokens = facts.prompt_tokens
            cached = [min(held[r.slot.bit], prompt_tokens) if r.slot is not None else 0 for r in replicas]
        return Features(facts.prompt_tokens, facts.output_tokens, cached, facts.session, now_s)

    def lease(self, errand: Errand, replica: Replica, record: Record, now_s: float) -> Lease:
        """Put the call on the replica's books."""
        facts, load = errand.facts, replica.load
        cached = min(errand.cached_tokens, facts.prompt_tokens)
        prefill_s = load.speed.prefill_s(facts.prompt_tokens, cached)
        record.predicted_ttft_s = load.backlog_s(now_s) + prefill_s + load.speed.fixed_s
        record.predicted_cached_tokens = cached
        record.route_reason = errand.route_reason
        slot = replica.slot
        if slot is not None and facts.prefix.keys and errand.deployment.policy.needs_prefix:
            self._index.insert(slot, facts.prefix)
        streamed = errand.call.stream
        return replica.lease(now_s, facts.prompt_tokens, cached, facts.output_tokens, streamed=streamed)

    def ended(self, errand: Errand, lease: Lease, outcome: Outcome, usage: Usage) -> None:
        """An attempt is over: what it says of the replica's cache and speed."""
        slot, prefix = lease.replica.slot, errand.facts.prefix
        told = outcome is Outcome.FINE and usage.cached_told
        if told:
            lease.work.close(usage.prompt_tokens, min(usage.cached_tokens, usage.prompt_tokens))
        else:
            lease.work.close()
        if slot is None or not prefix.keys:
            return
        if outcome is Outcome.BROKEN or outcome is Outcome.FULL or slot.certainty is Certainty.EXACT:
            self._index.forget(slot, prefix)  # it was not computed, or the engine tells of it itself
        if told:
            slot.answered(lease.work.cached_tokens, usage.cached_tokens)

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
