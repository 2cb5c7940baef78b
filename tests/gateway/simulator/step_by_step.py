"""An engine that is simulated one step at a time: slow and plain, to hold the jumping one against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.simulator.engine import EngineCost, EngineShape
from gateway.simulator.trace import Request


@dataclass
class Progress:
    request: Request
    position: int = 0
    decoded: int = 0
    first_s: float = -1.0
    ended_s: float = -1.0


def step_by_step(
    requests: Sequence[Request], cost: EngineCost, shape: EngineShape, speed: float
) -> list[tuple[float, float]]:
    """When each request had its first and its last token. No prefix cache; KV blocks are counted."""
    steps = _Steps([Progress(request) for request in requests], cost, shape)
    every, now_s = list(steps.waiting), 0.0
    while steps.waiting or steps.prefilling or steps.decoding:
        if not steps.prefilling and not steps.decoding:
            now_s = max(now_s, steps.waiting[0].request.arrival_s)
        decoding = list(steps.decoding)
        seconds = steps.decode_s()
        prefill_s, prefilled = steps.prefill(now_s)
        now_s += (seconds + prefill_s) / speed
        for one in decoding:
            one.decoded += 1
        for one in prefilled:
            one.first_s, one.decoded = now_s, 1
        for one in [*decoding, *prefilled]:
            if one.decoded == one.request.output_tokens:
                one.ended_s = now_s
        steps.decoding = [one for one in [*decoding, *prefilled] if one.ended_s < 0.0]
    return [(one.first_s, one.ended_s) for one in every]


class _Steps:
    def __init__(self, waiting: list[Progress], cost: EngineCost, shape: EngineShape) -> None:
        self.waiting = waiting
        self.prefilling: list[Progress] = []
        self.decoding: list[Progress] = []
        self.cost = cost
        self.shape = shape

    def decode_s(self) -> float:
        if not self.decoding:
            return 0.0
        context = sum(one.request.prompt_tokens + one.decoded for one in self.decoding)
        cost = self.cost
        return cost.decode_step_s + cost.decode_request_s * len(self.decoding) + cost.decode_token_s * context

    def prefill(self, now_s: float) -> tuple[float, list[Progress]]:
        """Seconds, and whose prompt is done."""
        cost, budget, seconds = self.cost, self.shape.step_tokens - len(self.decoding), 0.0
        prefilled: list[Progress] = []
        while budget > 0:
            if not self.prefilling:
                if not self._next_fits(now_s, [*self.decoding, *prefilled]):
                    break
                self.prefilling.append(self.waiting.pop(0))
                seconds += cost.prefill_request_s
            one = self.prefilling[0]
            end = min(one.position + budget, one.request.prompt_tokens)
            budget -= end - one.position
            seconds += cost.prefill_token_s * (end - one.position)
            seconds += cost.prefill_token2_s * (end**2 - one.position**2)
            one.position = end
            if end == one.request.prompt_tokens:
                prefilled.append(self.prefilling.pop())
        return seconds, prefilled

    def _next_fits(self, now_s: float, running: list[Progress]) -> bool:
        if not self.waiting or self.waiting[0].request.arrival_s > now_s or len(running) >= self.shape.max_running:
            return False
        return sum(map(self._blocks, [*running, self.waiting[0]])) <= self.shape.blocks

    def _blocks(self, one: Progress) -> int:
        return -(-(one.request.prompt_tokens + one.request.output_tokens) // self.shape.block_tokens)
