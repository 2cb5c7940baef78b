"""One run: arrivals, the policies' choices, the gateway's books, the engines. Time is virtual."""

from __future__ import annotations

import random
from collections.abc import Sequence
from heapq import heappop, heappush

from gateway.simulator.blocks import Holders
from gateway.simulator.endpoint import Endpoint
from gateway.simulator.engine import NEVER, Engine, Job, Server
from gateway.simulator.knowledge import Exact, Knowledge, Predicted
from gateway.simulator.plan import Plan, Route, Setting
from gateway.simulator.trace import Request, Trace
from router.fair_queue import Entry, FairQueue, charge
from router.load import ReplicaLoad
from router.policies import POLICIES
from router.types import Features, Policy

PRIOR_OUTPUT_TOKENS = 256.0
"""What an answer is expected to have before any was seen."""
_REACHES, _FIRST, _LAST = range(3)


def simulate(trace: Trace, setting: Setting, policy: str, seed: int) -> list[Job]:
    """Every request of the trace with its times. The same arguments give the same answer."""
    return simulate_plan(trace, setting.plan(policy), seed)


def simulate_plan(trace: Trace, plan: Plan, seed: int) -> list[Job]:
    return Simulation(plan, trace.block_tokens, seed).run(trace.arrivals(seed, plan.scale))


class Simulation:
    """The gateway's side. Of what happens at one instant, engines come first, then the gateway, then arrivals."""

    def __init__(self, plan: Plan, block_tokens: int, seed: int) -> None:
        self._plan = plan
        shape, holders = plan.shape(block_tokens), Holders()
        self._servers: list[Server] = [
            Endpoint(spec) if spec.elastic else Engine(plan.cost, shape, spec.speed, holders, i)
            for i, spec in enumerate(plan.engines)
        ]
        self._half_trips_s = [spec.rtt_s / 2.0 for spec in plan.engines]
        self._limits = [spec.max_in_flight for spec in plan.engines]
        self._limited = any(limit is not None for limit in self._limits)
        self._loads = [
            ReplicaLoad(spec.name, kv_capacity_tokens=0 if spec.elastic else plan.kv_tokens) for spec in plan.engines
        ]
        count = len(self._loads)
        self._knowledge: Knowledge = (
            Exact(holders, count, block_tokens)
            if plan.knowing == "exact"
            else Predicted(count, plan.kv_tokens, block_tokens)
        )
        self._rng = random.Random(f"{seed}:variants")  # noqa: S311 - it must repeat
        self._policies: dict[str, Policy] = {}
        for name, route in plan.routes.items():
            rng = random.Random(f"{seed}:{name}:{route.policy}")  # noqa: S311 - as above
            self._policies[name] = POLICIES[route.policy](rng)
        self._answers = {name: _Mean() for name in plan.routes}
        self._of_keys = dict.fromkeys(plan.key_limits, 0)
        spec = plan.queue
        self._queue: FairQueue[Request] | None = None if spec is None else FairQueue(spec.limit, weights=spec.weights)
        self._messages: list[tuple[float, int, int, Job]] = []  # time, order, what, of whom
        self._sent = 0
        self._jobs: list[Job] = []

    def run(self, requests: Sequence[Request]) -> list[Job]:
        """Every request, answered or refused."""
        for request in requests:
            self._until(request.arrival_s)
            self._arrive(request, request.arrival_s)
        self._until(NEVER)
        self._jobs += [Job(entry.payload) for entry in self._queue or ()]
        return self._jobs

    def _until(self, end_s: float) -> None:
        """Let everything happen that happens up to `end_s`."""
        servers, messages = self._servers, self._messages
        while True:
            at_s, chosen = NEVER, -1
            for index, server in enumerate(servers):
                if server.next_s < at_s:
                    at_s, chosen = server.next_s, index
            if messages and messages[0][0] < at_s:
                if messages[0][0] > end_s:
                    return
                self._receive(*heappop(messages))
            elif chosen < 0 or at_s > end_s:
                return
            else:
                self._step(chosen, at_s)

    def _step(self, index: int, now_s: float) -> None:
        first, ended = self._servers[index].advance()
        at_s = now_s + self._half_trips_s[index]
        for job in first:
            self._send(at_s, _FIRST, job)
        for job in ended:
            self._send(at_s, _LAST, job)

    def _send(self, at_s: float, what: int, job: Job) -> None:
        self._sent += 1
        heappush(self._messages, (at_s, self._sent, what, job))

    def _receive(self, now_s: float, _order: int, what: int, job: Job) -> None:
        work, request = job.work, job.request
        assert work is not None
        if what == _REACHES:
            self._servers[job.engine].submit(job, now_s)
        elif what == _FIRST:
            job.first_s = now_s
            work.first_token(now_s)
            self._knowledge.prefilled(request, job.engine)
        else:
            job.ended_s = now_s
            work.close(request.prompt_tokens, job.cached_tokens)
            self._knowledge.answered(request, job.engine, work.cached_tokens, job.cached_tokens)
            self._answers[self._route_of(request)].add(request.output_tokens)
            if request.caller.key in self._of_keys:
                self._of_keys[request.caller.key] -= 1
            if self._queue:
                self._serve_queue(self._queue, now_s)

    # Arrivals

    def _route_of(self, request: Request) -> str:
        name = request.caller.deployment
        return name if name in self._plan.routes else ""

    def _arrive(self, request: Request, now_s: float) -> None:
        name, key = self._route_of(request), request.caller.key
        route = self._plan.routes.get(name)
        if route is None or self._of_keys.get(key, 0) >= self._plan.key_limits.get(key, 1):
            self._jobs.append(Job(request))
            return
        if self._queue or not self._place(request, name, route, now_s):
            self._wait_or_fall_back(request, route, now_s)

    def _wait_or_fall_back(self, request: Request, route: Route, now_s: float) -> None:
        queue = self._queue
        if queue is not None:
            caller = request.caller
            cost = charge(request.prompt_tokens, self._answers[self._route_of(request)].value)
            shed = queue.push(Entry(caller.tenant, cost, request), now_s)
            if shed is not None:
                self._jobs.append(Job(shed.payload))
            return
        for name in route.fallbacks:
            if self._place(request, name, self._plan.routes[name], now_s):
                return
        self._jobs.append(Job(request))

    def _serve_queue(self, queue: FairQueue[Request], now_s: float) -> None:
        assert self._plan.queue is not None
        oldest_s = now_s - self._plan.queue.max_wait_s
        for entry in [entry for entry in queue if entry.since_s < oldest_s]:
            queue.remove(entry)
            self._jobs.append(Job(entry.payload))

        def fits(entry: Entry[Request]) -> bool:
            name = self._route_of(entry.payload)
            return self._place(entry.payload, name, self._plan.routes[name], now_s)

        while queue.pop(now_s, fits) is not None:
            pass

    def _place(self, request: Request, name: str, route: Route, now_s: float) -> bool:
        """Send it to the engine that the policy chooses; False: none may be asked now."""
        candidates = self._candidates(request, route)
        if not candidates:
            return False
        policy, expected = self._policies[name], self._answers[name].value
        loads = self._loads
        cached: Sequence[int] = ()
        if policy.needs_prefix and request.keys:
            cached = self._knowledge.cached(request)
        if len(candidates) < len(loads):
            loads = [loads[i] for i in candidates]
            cached = [cached[i] for i in candidates] if cached else ()
        features = Features(request.prompt_tokens, expected, cached, request.session, now_s)
        chosen = policy.choose(features, loads)
        work = loads[chosen].begin(request.prompt_tokens, features.cached_at(chosen), expected, now_s)
        self._dispatch(Job(request, candidates[chosen], work), now_s)
        return True

    def _candidates(self, request: Request, route: Route) -> Sequence[int]:
        """Engines of a variant, drawn by weight, that may be asked now."""
        allowed = self._plan.allowed.get(request.caller.sensitivity)
        variants = route.variants
        if allowed is not None:
            variants = tuple((weight, kept) for weight, all_ in variants if (kept := [i for i in all_ if i in allowed]))
        if not variants:
            return ()
        engines = variants[0][1]
        if len(variants) > 1:
            engines = self._rng.choices(variants, [weight for weight, _engines in variants])[0][1]
        if not self._limited:
            return engines
        limits, loads = self._limits, self._loads
        return [i for i in engines if (limit := limits[i]) is None or loads[i].in_flight < limit]

    def _dispatch(self, job: Job, now_s: float) -> None:
        request, index = job.request, job.engine
        self._jobs.append(job)
        server = self._servers[index]
        if not server.takes(request):
            assert job.work is not None
            job.work.leave()
            return
        if request.caller.key in self._of_keys:
            self._of_keys[request.caller.key] += 1
        self._knowledge.sent(request, index)
        half_trip_s = self._half_trips_s[index]
        if half_trip_s:
            self._send(now_s + half_trip_s, _REACHES, job)
        else:
            server.submit(job, now_s)


class _Mean:
    """Of the lengths of answers so far."""

    __slots__ = ("_count", "_sum", "value")

    def __init__(self) -> None:
        self._count = 0
        self._sum = 0
        self.value = PRIOR_OUTPUT_TOKENS

    def add(self, tokens: int) -> None:
        self._count += 1
        self._sum += tokens
        self.value = self._sum / self._count
