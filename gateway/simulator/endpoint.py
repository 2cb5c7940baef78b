"""An endpoint behind which there are as many engines as it takes, as clouds have them."""

from __future__ import annotations

from heapq import heappop, heappush

from gateway.simulator.engine import NEVER, Job
from gateway.simulator.plan import EngineSpec
from gateway.simulator.trace import Request


class Endpoint:
    """Every request takes what it would take alone. Used like an `Engine`."""

    def __init__(self, spec: EngineSpec) -> None:
        self.next_s = NEVER
        self._spec = spec
        self._due: list[tuple[float, int, bool, Job]] = []  # when, order, whether it is the last token
        self._count = 0

    def takes(self, request: Request) -> bool:
        return True

    def submit(self, job: Job, now_s: float) -> None:
        job.cached_tokens = 0
        first_s = now_s + self._spec.ttft_s
        self._count += 1
        heappush(self._due, (first_s, self._count, False, job))
        heappush(self._due, (first_s + self._spec.tpot_s * (job.request.output_tokens - 1), self._count, True, job))
        self.next_s = self._due[0][0]

    def advance(self) -> tuple[list[Job], list[Job]]:
        _at_s, _order, last, job = heappop(self._due)
        self.next_s = self._due[0][0] if self._due else NEVER
        return ([], [job]) if last else ([job], [])
