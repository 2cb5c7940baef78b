"""A simulated engine: continuous batching, chunked prefill, a prefix cache. Runs of equal steps are one jump."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

from gateway.simulator.blocks import BlockCache, Holders

if TYPE_CHECKING:
    from gateway.simulator.trace import Request
    from router.fair_queue import Entry
    from router.load import Work

NEVER = math.inf


@dataclass(frozen=True, slots=True)
class EngineCost:
    """Seconds that an engine of speed 1 takes: a 30B model in half precision on one large GPU.

    A step costs the prefill of its chunks, if it has any, plus the decoding of one token of each running request, if
    there is any. Prefill of tokens a to b costs `prefill_token_s * (b - a) + prefill_token2_s * (b² - a²)`, and
    the first chunk of a prompt `prefill_request_s` on top.
    Source of the figures: the reference coefficients of vllm-project/router (docs/program_scheduling.md).
    """

    prefill_request_s: float = 0.066
    prefill_token_s: float = 5.702e-5
    prefill_token2_s: float = 4.4057e-9
    decode_step_s: float = 0.010635
    decode_request_s: float = 0.00041928
    decode_token_s: float = 1.4205e-7

    def paced(self, prefill: float, decode: float) -> EngineCost:
        """Of an engine that prefills and decodes at so many times this speed."""
        return EngineCost(
            self.prefill_request_s / prefill,
            self.prefill_token_s / prefill,
            self.prefill_token2_s / prefill,
            self.decode_step_s / decode,
            self.decode_request_s / decode,
            self.decode_token_s / decode,
        )

    def prefill_s(self, tokens: int, cached_tokens: int = 0) -> float:
        """A prompt, on an engine that does nothing else and holds so many of its tokens."""
        linear_s = self.prefill_token_s * (tokens - cached_tokens)
        return self.prefill_request_s + linear_s + self.prefill_token2_s * (tokens**2 - cached_tokens**2)

    def decode_s(self, steps: int, requests: int, context_tokens: int) -> float:
        """So many steps of so many requests, whose contexts grow by a token a step."""
        first = self.decode_step_s + self.decode_request_s * requests + self.decode_token_s * context_tokens
        return steps * (first + self.decode_token_s * requests * (steps - 1) / 2.0)


@dataclass(frozen=True, slots=True)
class EngineShape:
    """What an engine has.

    blocks, block_tokens: its KV cache.
    step_tokens:  most tokens in one step, prompt and decoded.
    max_running:  most requests in the running batch.
    """

    blocks: int = 1500
    block_tokens: int = 512
    step_tokens: int = 8192
    max_running: int = 256


class Job:
    """One request on its way through an engine. Times are those at the client.

    work, entry: what it is in the gateway's books, and in its queue.
    engine: its number; -1: the request was refused.
    cached_tokens: of the prompt, what the engine held when it began; -1: it never began.
    first_s, ended_s: when the first and the last token arrived.
    """

    __slots__ = ("cached_tokens", "ended_s", "engine", "entry", "first_s", "position", "private", "request", "work")

    def __init__(self, request: Request, engine: int = -1, work: Work | None = None) -> None:
        self.request = request
        self.engine = engine
        self.work = work
        self.entry: Entry[Request] | None = None
        self.cached_tokens = -1
        self.first_s = NEVER
        self.ended_s = NEVER
        self.position = 0
        self.private = 0


class Server(Protocol):
    """What answers requests in virtual time.

    next_s: when it has something to tell; `NEVER`: not before it is sent more.
    """

    next_s: float

    def takes(self, request: Request) -> bool:
        """Whether it could ever run the request."""
        ...

    def submit(self, job: Job, now_s: float) -> None: ...

    def advance(self) -> tuple[list[Job], list[Job]]:
        """The clock stands at `next_s`: who has the first token now, and who the last."""
        ...


class Engine:
    """Its owner calls `submit` when a request arrives and `advance` when the clock stands at `next_s`.

    Requests are taken first come, first served, and only when the KV cache has room for prompt and answer: nothing is
    ever preempted. The blocks of a prompt count as held from the moment that its prefill begins, as with vLLM.
    """

    def __init__(self, cost: EngineCost, shape: EngineShape, speed: float, holders: Holders, index: int) -> None:
        self.next_s = NEVER
        self.cache = BlockCache(shape.blocks, holders, index)
        self._cost = cost
        self._shape = shape
        self._speed = speed
        self._waiting: deque[Job] = deque()
        self._partial: Job | None = None
        self._prefilled: list[Job] = []
        self._decoding: list[tuple[int, int, Job]] = []  # the step after which it ends, order of arrival
        self._context_tokens = 0  # of those decoding
        self._joined = 0
        self._steps = 0
        self._began_s = 0.0
        self._run = 0  # steps of the present jump
        self._mixed = False  # whether it is one step with prefill

    def __repr__(self) -> str:
        return f"<Engine waiting={len(self._waiting)} decoding={len(self._decoding)} {self.cache!r}>"

    @property
    def waiting(self) -> int:
        """Requests whose prefill has not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._decoding) + (self._partial is not None) + len(self._prefilled)

    def takes(self, request: Request) -> bool:
        """Whether it could ever run the request."""
        return self._blocks_of(request) <= self._shape.blocks

    def submit(self, job: Job, now_s: float) -> None:
        self._waiting.append(job)
        if self.next_s == NEVER:
            self._begin(now_s)
        elif not self._mixed and len(self._waiting) == 1:
            self._end_run_at(now_s)

    def advance(self) -> tuple[list[Job], list[Job]]:
        """The step ends, and the next begins. Returns who has the first token now, and who the last."""
        now_s = self.next_s
        self._steps += self._run
        decoding = self._decoding
        self._context_tokens += self._run * len(decoding)
        ended = []
        while decoding and decoding[0][0] <= self._steps:
            ended.append(heappop(decoding)[2])
            self._context_tokens -= ended[-1].request.prompt_tokens + ended[-1].request.output_tokens
        first, self._prefilled = self._prefilled, []
        for job in first:
            request = job.request
            if request.output_tokens <= 1:
                ended.append(job)
                continue
            self._joined += 1
            heappush(decoding, (self._steps + request.output_tokens - 1, self._joined, job))
            self._context_tokens += request.prompt_tokens + 1
        for job in ended:
            self.cache.release(job.request.keys, job.private)
        self._begin(now_s)
        return first, ended

    def _begin(self, now_s: float) -> None:
        """Plan the next jump: one step that prefills, or all steps until the next decoding request ends."""
        cost, decoding = self._cost, self._decoding
        self._began_s = now_s
        prefill_s = self._chunks() if self._waiting or self._partial is not None else 0.0
        self._mixed = prefill_s > 0.0
        if self._mixed:
            self._run = 1
            decode_s = cost.decode_s(1, len(decoding), self._context_tokens) if decoding else 0.0
            self.next_s = now_s + (prefill_s + decode_s) / self._speed
        elif decoding:
            self._run = decoding[0][0] - self._steps
            self.next_s = now_s + cost.decode_s(self._run, len(decoding), self._context_tokens) / self._speed
        else:
            self._run = 0
            self.next_s = NEVER

    def _chunks(self) -> float:
        """Fill a step with chunks of prompts. Returns the seconds of their prefill at speed 1."""
        cost = self._cost
        budget = self._shape.step_tokens - len(self._decoding)
        seconds = 0.0
        while budget > 0:
            job = self._partial or self._admit()
            if job is None:
                break
            start, prompt = job.position, job.request.prompt_tokens
            end = min(start + budget, prompt)
            budget -= end - start
            seconds += cost.prefill_token_s * (end - start) + cost.prefill_token2_s * (end * end - start * start)
            seconds += cost.prefill_request_s if self._partial is None else 0.0
            job.position = end
            if end == prompt:
                self._prefilled.append(job)
                self._partial = None
            else:
                self._partial = job
        return seconds

    def _admit(self) -> Job | None:
        if not self._waiting or len(self._decoding) + len(self._prefilled) >= self._shape.max_running:
            return None
        job = self._waiting[0]
        request = job.request
        private = self._blocks_of(request) - len(request.keys)
        found = self.cache.pin(request.keys, private)
        if found is None:
            return None
        self._waiting.popleft()
        job.private = private
        job.cached_tokens = job.position = found * self._shape.block_tokens
        return job

    def _blocks_of(self, request: Request) -> int:
        return -(-(request.prompt_tokens + request.output_tokens) // self._shape.block_tokens)

    def _end_run_at(self, now_s: float) -> None:
        """Cut a run of decode steps at the end of the step that goes on at `now_s`."""
        cost, requests = self._cost, len(self._decoding)
        slope = cost.decode_token_s * requests / 2.0
        first_s = cost.decode_s(1, requests, self._context_tokens)
        gone_s = (now_s - self._began_s) * self._speed
        linear = first_s - slope
        if slope > 0.0:
            steps = (math.sqrt(linear * linear + 4.0 * slope * gone_s) - linear) / (2.0 * slope)
        else:
            steps = gone_s / linear
        self._run = min(self._run, max(1, math.ceil(steps - 1e-9)))
        end_s = self._began_s + cost.decode_s(self._run, requests, self._context_tokens) / self._speed
        self.next_s = max(now_s, end_s)
