"""The gateway's side of a simulation: real policies, real books and the real queue, in virtual time."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable, Sequence

from gateway.choice import STRICT_S, has_room
from gateway.simulator.engine import Job
from gateway.simulator.knowledge import Knowledge
from gateway.simulator.plan import Plan, QueueSpec, Route
from gateway.simulator.trace import Request
from gateway.waiting_room import CONTENDED_S
from router.fair_queue import Entry, FairQueue, charge
from router.load import ReplicaLoad
from router.policies import POLICIES
from router.speed import Family, Speed
from router.types import Features

PRIOR_OUTPUT_TOKENS = 256.0
"""What an answer is expected to have before any was seen."""

Send = Callable[[Job, float], None]


class Front:
    """Decides where each request goes, and when.

    send:    takes a request that is on the books to its engine.
    refused: requests that nobody answers.
    """

    def __init__(self, plan: Plan, knowledge: Knowledge, seed: int, send: Send) -> None:
        self._plan = plan
        self._knowledge = knowledge
        self._send = send
        families: defaultdict[tuple[object, ...], Family] = defaultdict(Family)
        self._loads = [
            ReplicaLoad(
                spec.name,
                Speed(family=families[spec.pool, spec.speed, spec.rtt_s, spec.elastic]),
                kv_capacity_tokens=0 if spec.elastic else plan.kv_tokens,
            )
            for spec in plan.engines
        ]
        self._limits = [spec.max_in_flight for spec in plan.engines]
        self._desks = {name: _Desk(name, route, seed) for name, route in plan.routes.items()}
        self._limited = any(limit is not None for limit in self._limits)
        self._of_keys = dict.fromkeys(plan.key_limits, 0)
        self.refused: list[Request] = []
        self._later = False
        """Whether there was a place, but not at the engine that is best for the request."""

    @property
    def waiting(self) -> int:
        """Requests in all queues."""
        return sum(len(desk.queue) for desk in self._desks.values() if desk.queue is not None)

    def arrive(self, request: Request, now_s: float) -> None:
        desk, key = self._desk(request), request.caller.key
        if desk is None or self._of_keys.get(key, 0) >= self._plan.key_limits.get(key, 1):
            self.refused.append(request)
            return
        if key in self._of_keys:
            self._of_keys[key] += 1
        if desk.spec is not None:
            self._queue(desk, desk.spec, request, now_s)
        elif not self._place(request, desk, now_s):
            self._fall_back(desk, request, now_s)

    def first_token(self, job: Job, now_s: float) -> None:
        assert job.work is not None
        job.work.first_token(now_s)
        self._knowledge.prefilled(job.request, job.engine)
        self.look(now_s)

    def ended(self, job: Job, now_s: float) -> None:
        work, request = job.work, job.request
        assert work is not None
        uncached = request.prompt_tokens - job.cached_tokens
        work.close(request.prompt_tokens, job.cached_tokens)
        self._knowledge.answered(request, job.engine, work.cached_tokens, job.cached_tokens)
        desk = self._desk(request)
        assert desk is not None
        desk.learn(request.output_tokens)
        if job.entry is not None and desk.queue is not None:
            desk.queue.settle(job.entry, charge(uncached, request.output_tokens))
        self._leave(request)
        self.look(now_s)

    def unfit(self, job: Job) -> None:
        """It is more than its engine can ever hold."""
        assert job.work is not None
        job.work.leave()
        self._leave(job.request)

    def look(self, now_s: float) -> None:
        """Whether anybody who waits may go now."""
        for desk in self._desks.values():
            if desk.queue:
                desk.full.clear()
                self._hand_out(desk, desk.queue, now_s)

    def close(self) -> None:
        """Nothing happens any more: who waits still is refused."""
        for desk in self._desks.values():
            self.refused += [entry.payload for entry in desk.queue or ()]

    def _desk(self, request: Request) -> _Desk | None:
        return self._desks.get(request.caller.deployment) or self._desks.get("")

    def _leave(self, request: Request) -> None:
        if request.caller.key in self._of_keys:
            self._of_keys[request.caller.key] -= 1

    def _refuse(self, request: Request) -> None:
        self._leave(request)
        self.refused.append(request)

    # Waiting: as `gateway.waiting_room` has it

    def _queue(self, desk: _Desk, spec: QueueSpec, request: Request, now_s: float) -> None:
        queue, caller = desk.queue, request.caller
        assert queue is not None
        cost = charge(request.prompt_tokens, desk.output_tokens)
        entry = Entry(caller.tenant, cost, request, spec.classes.get(caller.key, 0), now_s + spec.max_wait_s)
        desk.asked_by(caller.tenant, now_s)
        if not queue:
            self._later = False
            if self._place(request, desk, now_s, entry):
                queue.pass_by(entry, now_s)
                return
            desk.full = set() if self._later else {caller.sensitivity}
        desk.arrivals.append(entry)
        shed = queue.push(entry, now_s)
        if shed is not None:
            self._refuse(shed.payload)
        if entry.behind or caller.sensitivity not in desk.full:
            self._hand_out(desk, queue, now_s)

    def _hand_out(self, desk: _Desk, queue: FairQueue[Request], now_s: float) -> None:
        assert desk.spec is not None
        arrivals, oldest_s = desk.arrivals, now_s - desk.spec.max_wait_s
        while arrivals and (arrivals[0].since_s <= oldest_s or arrivals[0] not in queue):
            entry = arrivals.popleft()
            if queue.remove(entry):
                self._refuse(entry.payload)

        def fits(entry: Entry[Request]) -> bool:
            group = entry.payload.caller.sensitivity
            if group in desk.full:
                return False
            self._later = False
            if self._place(entry.payload, desk, now_s, entry):
                return True
            if not self._later:
                desk.full.add(group)
            return False

        while queue.pop(now_s, fits) is not None:
            pass

    # Choosing

    def _fall_back(self, desk: _Desk, request: Request, now_s: float) -> None:
        if not any(self._place(request, self._desks[name], now_s) for name in desk.route.fallbacks):
            self._refuse(request)

    def _place(self, request: Request, desk: _Desk, now_s: float, entry: Entry[Request] | None = None) -> bool:
        """Send it to the engine that the policy chooses; False: none has a place."""
        candidates = self._candidates(request, desk)
        if not candidates:
            return False
        loads, cached = self._loads, self._cached(request, desk)
        if len(candidates) < len(loads):
            loads = [loads[i] for i in candidates]
            cached = [cached[i] for i in candidates] if cached else ()
        features = Features(request.prompt_tokens, desk.output_tokens, cached, request.session, now_s)
        chosen = desk.policy.choose(features, loads)
        if entry is not None:
            hold_over_s = desk.hold_over_s(entry, now_s)
            if not has_room(loads[chosen], now_s, hold_over_s):
                self._later = any(has_room(load, now_s, hold_over_s) for load in loads)
                return False
        work = loads[chosen].begin(request.prompt_tokens, features.cached_at(chosen), desk.output_tokens, now_s)
        job = Job(request, candidates[chosen], work)
        job.entry = entry
        self._knowledge.sent(request, job.engine)
        self._send(job, now_s)
        return True

    def _cached(self, request: Request, desk: _Desk) -> Sequence[int]:
        return self._knowledge.cached(request) if desk.policy.needs_prefix and request.keys else ()

    def _candidates(self, request: Request, desk: _Desk) -> Sequence[int]:
        """Engines of a variant, drawn by weight, that have a place."""
        allowed = self._plan.allowed.get(request.caller.sensitivity)
        variants = desk.route.variants
        if allowed is not None:
            variants = tuple((weight, kept) for weight, all_ in variants if (kept := [i for i in all_ if i in allowed]))
        if not variants:
            return ()
        engines = variants[0][1]
        if len(variants) > 1:
            engines = desk.rng.choices(variants, [weight for weight, _engines in variants])[0][1]
        if not self._limited:
            return engines
        limits, loads = self._limits, self._loads
        return [i for i in engines if (limit := limits[i]) is None or loads[i].in_flight < limit]


class _Desk:
    """What one deployment has. output_tokens: mean length of its answers so far."""

    def __init__(self, name: str, route: Route, seed: int) -> None:
        self.route = route
        self.spec = spec = route.queue
        self.rng = random.Random(f"{seed}:{name}:variants")  # noqa: S311 - it must repeat
        self.policy = POLICIES[route.policy](random.Random(f"{seed}:{name}:{route.policy}"))  # noqa: S311 - as above
        self.queue: FairQueue[Request] | None = None
        if spec is not None:
            self.queue = FairQueue(spec.max_waiting, spec.age_s, spec.weights)
        self.arrivals: deque[Entry[Request]] = deque()
        self.full: set[str] = set()
        """Sensitivity classes that found no place since one became free."""
        self._tenant: str | None = None
        self._contended_until_s = 0.0
        self.output_tokens = PRIOR_OUTPUT_TOKENS
        self._answers = 0
        self._tokens = 0

    def asked_by(self, tenant: str, now_s: float) -> None:
        if tenant != self._tenant:
            if self._tenant is not None:
                self._contended_until_s = now_s + CONTENDED_S
            self._tenant = tenant

    def hold_over_s(self, entry: Entry[Request], now_s: float) -> float:
        """Prefill that may lie ahead of it at the engine that it goes to."""
        assert self.spec is not None
        strict = now_s < self._contended_until_s and not entry.behind
        return STRICT_S if strict else self.spec.hold_over_s

    def learn(self, output_tokens: int) -> None:
        self._answers += 1
        self._tokens += output_tokens
        self.output_tokens = self._tokens / self._answers
