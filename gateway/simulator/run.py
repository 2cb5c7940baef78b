"""One policy on one trace with one seed: arrivals, the policy's choices, the gateway's books, the engines."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from gateway.simulator.blocks import Holders
from gateway.simulator.engine import NEVER, Engine, EngineCost, EngineShape, Job
from gateway.simulator.knowledge import Exact, Knowledge
from gateway.simulator.traces import Request, Trace
from router.load import ReplicaLoad
from router.policies import POLICIES
from router.types import Features, Policy

PRIOR_OUTPUT_TOKENS = 256.0
"""What an answer is expected to have before any was seen."""
_REACHES, _FIRST, _LAST = range(3)


@dataclass(frozen=True, slots=True)
class Setting:
    """The engines and the load.

    speeds, rtts_s: one per engine; its share of full speed, and its round trip.
    scale:     the trace is played at this many times its speed.
    knowledge: `exact` or `predicted`: how the gateway knows what the engines hold.
    """

    speeds: tuple[float, ...] = (1.0,) * 8
    rtts_s: tuple[float, ...] = (0.0,) * 8
    scale: float = 1.0
    kv_tokens: int = 1500 * 512
    step_tokens: int = 8192
    max_running: int = 256
    knowledge: str = "exact"
    cost: EngineCost = field(default_factory=EngineCost)

    def shape(self, block_tokens: int) -> EngineShape:
        return EngineShape(self.kv_tokens // block_tokens, block_tokens, self.step_tokens, self.max_running)


def simulate(trace: Trace, setting: Setting, policy: str, seed: int) -> list[Job]:
    """Every request of the trace, in the order of arrival, with its times. The same arguments give the same answer."""
    requests = trace.arrivals(seed, setting.scale)
    rng = random.Random(f"{seed}:{policy}")  # noqa: S311 - it must repeat
    return Simulation(setting, trace.block_tokens, POLICIES[policy](rng)).run(requests)


class Simulation:
    """The gateway's side. Events at one instant: engines first, then what reaches the gateway, then arrivals."""

    def __init__(self, setting: Setting, block_tokens: int, policy: Policy) -> None:
        self._policy = policy
        shape, holders = setting.shape(block_tokens), Holders()
        self._engines = [Engine(setting.cost, shape, speed, holders, i) for i, speed in enumerate(setting.speeds)]
        self._half_trips_s = [rtt_s / 2.0 for rtt_s in setting.rtts_s]
        self._loads = [
            ReplicaLoad(f"engine-{i:02}", kv_capacity_tokens=setting.kv_tokens) for i in range(len(self._engines))
        ]
        self._knowledge: Knowledge = Exact(holders, len(self._engines), block_tokens)
        self._messages: list[tuple[float, int, int, Job]] = []  # time, order, what, of whom
        self._sent = 0
        self._answers = 0
        self._answer_tokens = 0
        self._dispatched: list[Job] = []

    def run(self, requests: Sequence[Request]) -> list[Job]:
        for request in requests:
            self._until(request.arrival_s)
            self._arrive(request, request.arrival_s)
        self._until(NEVER)
        return self._dispatched

    def _until(self, end_s: float) -> None:
        """Let everything happen that happens before `end_s`."""
        engines, messages = self._engines, self._messages
        while True:
            at_s, chosen = NEVER, -1
            for index, engine in enumerate(engines):
                if engine.next_s < at_s:
                    at_s, chosen = engine.next_s, index
            if messages and messages[0][0] < at_s:
                if messages[0][0] > end_s:
                    return
                self._receive(*heappop(messages))
            elif chosen < 0 or at_s > end_s:
                return
            else:
                self._step(chosen, at_s)

    def _step(self, index: int, now_s: float) -> None:
        first, ended = self._engines[index].advance()
        at_s = now_s + self._half_trips_s[index]
        for job in first:
            self._send(at_s, _FIRST, job)
        for job in ended:
            self._send(at_s, _LAST, job)

    def _send(self, at_s: float, what: int, job: Job) -> None:
        self._sent += 1
        heappush(self._messages, (at_s, self._sent, what, job))

    def _receive(self, now_s: float, _order: int, what: int, job: Job) -> None:
        if what == _REACHES:
            self._engines[job.engine].submit(job, now_s)
        elif what == _FIRST:
            job.first_s = now_s
            job.work.first_token(now_s)
            self._knowledge.prefilled(job.request, job.engine)
        else:
            job.ended_s = now_s
            job.work.close()
            self._answers += 1
            self._answer_tokens += job.request.output_tokens
            self._knowledge.answered(job.request, job.engine, job.work.cached_tokens, job.cached_tokens)

    def _arrive(self, request: Request, now_s: float) -> None:
        expected = self._answer_tokens / self._answers if self._answers else PRIOR_OUTPUT_TOKENS
        cached = self._knowledge.cached(request) if self._policy.needs_prefix and request.keys else ()
        features = Features(request.prompt_tokens, expected, cached, request.session, now_s)
        index = self._policy.choose(features, self._loads)
        load = self._loads[index]
        job = Job(request, index, load.begin(request.prompt_tokens, features.cached_at(index), expected, now_s))
        self._dispatched.append(job)
        if not self._engines[index].takes(request):
            job.work.close()
            return
        self._knowledge.sent(request, index)
        half_trip_s = self._half_trips_s[index]
        if half_trip_s:
            self._send(now_s + half_trip_s, _REACHES, job)
        else:
            self._engines[index].submit(job, now_s)
