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
    every = [Progress(request) for request in requests]
    waiting = list(every)
    prefilling: list[Progress] = []
    decoding: list[Progress] = []
    now_s = 0.0

    def blocks(one: Progress) -> int:
        return -(-(one.request.prompt_tokens + one.request.output_tokens) // shape.block_tokens)

    while waiting or prefilling or decoding:
        if not prefilling and not decoding and waiting[0].request.arrival_s > now_s:
            now_s = waiting[0].request.arrival_s
        budget, seconds = shape.step_tokens - len(decoding), 0.0
        prefilled: list[Progress] = []
        if decoding:
            context = sum(one.request.prompt_tokens + one.decoded for one in decoding)
            seconds += cost.decode_step_s + cost.decode_request_s * len(decoding) + cost.decode_token_s * context
        while budget > 0:
            if not prefilling:
                used = sum(map(blocks, decoding)) + sum(map(blocks, prefilled))
                running = len(decoding) + len(prefilled)
                if not waiting or waiting[0].request.arrival_s > now_s or running >= shape.max_running:
                    break
                if used + blocks(waiting[0]) > shape.blocks:
                    break
                prefilling.append(waiting.pop(0))
                seconds += cost.prefill_request_s
            one = prefilling[0]
            end = min(one.position + budget, one.request.prompt_tokens)
            budget -= end - one.position
            seconds += cost.prefill_token_s * (end - one.position)
            seconds += cost.prefill_token2_s * (end**2 - one.position**2)
            one.position = end
            if end == one.request.prompt_tokens:
                prefilled.append(prefilling.pop())
        now_s += seconds / speed
        for one in decoding:
            one.decoded += 1
        for one in prefilled:
            one.first_s, one.decoded = now_s, 1
        for one in [*decoding, *prefilled]:
            if one.decoded == one.request.output_tokens:
                one.ended_s = now_s
        decoding = [one for one in [*decoding, *prefilled] if one.ended_s < 0.0]
    return [(one.first_s, one.ended_s) for one in every]
