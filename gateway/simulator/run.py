"""One run: arrivals, the gateway and the engines, in virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from gateway.simulator.blocks import Holders
from gateway.simulator.endpoint import Endpoint
from gateway.simulator.engine import NEVER, Engine, Job, Server
from gateway.simulator.front import Front
from gateway.simulator.knowledge import Exact, Knowledge, Predicted
from gateway.simulator.plan import Plan, Setting
from gateway.simulator.trace import Request, Trace

RECHECK_S = 0.1
"""While anybody waits, the gateway looks this often for what frees up by time alone."""
_REACHES, _FIRST, _LAST, _LOOK = range(4)


def simulate(trace: Trace, setting: Setting, policy: str, seed: int) -> list[Job]:
    """Every request of the trace with its times. The same arguments give the same answer."""
    return simulate_plan(trace, setting.plan(policy), seed)


def simulate_plan(trace: Trace, plan: Plan, seed: int) -> list[Job]:
    """As `simulate`."""
    return Simulation(plan, trace.block_tokens, seed).run(trace.arrivals(seed, plan.scale))


class Simulation:
    """Carries requests and tokens between the gateway and the engines. At one instant engines come before messages,
    and these before arrivals."""

    def __init__(self, plan: Plan, block_tokens: int, seed: int) -> None:
        shape, holders, count = plan.shape(block_tokens), Holders(), len(plan.engines)
        self._servers: list[Server] = [
            Endpoint(spec) if spec.elastic else Engine(spec.cost or plan.cost, shape, spec.speed, holders, i)
            for i, spec in enumerate(plan.engines)
        ]
        self._half_trips_s = [spec.rtt_s / 2.0 for spec in plan.engines]
        knowledge: Knowledge = (
            Exact(holders, count, block_tokens)
            if plan.knowing == "exact"
            else Predicted(count, plan.kv_tokens, block_tokens)
        )
        self._front = Front(plan, knowledge, seed, self._dispatch)
        self._messages: list[tuple[float, int, int, Job | None]] = []  # time, order, what, of whom
        self._count = 0
        self._looking = False
        self._jobs: list[Job] = []

    def run(self, requests: Sequence[Request]) -> list[Job]:
        """Every request, those that were refused at the end."""
        for request in requests:
            self._until(request.arrival_s)
            self._front.arrive(request, request.arrival_s)
            self._look_again(request.arrival_s)
        self._until(NEVER)
        self._front.close()
        return self._jobs + [Job(request) for request in self._front.refused]

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
            self._post(at_s, _FIRST, job)
        for job in ended:
            self._post(at_s, _LAST, job)

    def _post(self, at_s: float, what: int, job: Job | None = None) -> None:
        self._count += 1
        heappush(self._messages, (at_s, self._count, what, job))

    def _receive(self, now_s: float, _order: int, what: int, job: Job | None) -> None:
        if job is None:
            self._looking = False
            self._front.look(now_s)
            self._look_again(now_s)
        elif what == _REACHES:
            self._servers[job.engine].submit(job, now_s)
        elif what == _FIRST:
            job.first_s = now_s
            self._front.first_token(job, now_s)
        else:
            job.ended_s = now_s
            self._front.ended(job, now_s)

    def _look_again(self, now_s: float) -> None:
        if not self._looking and self._front.waiting:
            self._looking = True
            self._post(now_s + RECHECK_S, _LOOK)

    def _dispatch(self, job: Job, now_s: float) -> None:
        self._jobs.append(job)
        server, half_trip_s = self._servers[job.engine], self._half_trips_s[job.engine]
        if not server.takes(job.request):
            self._front.unfit(job)
        elif half_trip_s:
            self._post(now_s + half_trip_s, _REACHES, job)
        else:
            server.submit(job, now_s)
