"""Building blocks of the simulator's tests."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from gateway.simulator.engine import EngineCost
from gateway.simulator.trace import Caller, Request, Trace

SOMEBODY = Caller("team", "key", "llama")
ROUND = EngineCost(
    prefill_request_s=0.5,
    prefill_token_s=0.001,
    prefill_token2_s=0.0,
    decode_step_s=0.01,
    decode_request_s=0.0,
    decode_token_s=0.0,
)
"""Costs that can be added up in the head."""


def trace_of(*requests: Request, block_tokens: int = 16) -> Trace:
    return Trace("trace", list(requests), block_tokens)


def conversations(count: int, turns: int, seed: int = 1, rate_per_s: float = 4.0) -> Trace:
    """Each turn repeats the turns before it; all conversations begin with the same block."""
    rng = random.Random(seed)
    requests, fresh = [], 1
    for number in range(count):
        at_s = rng.random() * count / rate_per_s
        keys = [0]
        for _turn in range(turns):
            more = rng.randint(2, 12)
            keys = [*keys, *range(fresh, fresh + more)]
            fresh += more
            prompt_tokens = len(keys) * 512 + rng.randint(1, 512)
            requests.append(Request(at_s, prompt_tokens, rng.randint(1, 300), keys, session=f"c{number}"))
            at_s += 5.0 + rng.random() * 20.0
    requests.sort(key=lambda request: request.arrival_s)
    return Trace("conversations", requests, 512)


def write_mooncake(path: Path, requests: Iterable[Request]) -> Path:
    rows = (
        {
            "timestamp": round(r.arrival_s * 1000),
            "input_length": r.prompt_tokens,
            "output_length": r.output_tokens,
            "hash_ids": list(r.keys),
        }
        for r in requests
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def log_line(
    ended_s: float,
    duration_s: float,
    *,
    tokens: tuple[int, int, int] = (100, 10, 0),
    ttft_s: float | None = 0.1,
    caller: Caller = SOMEBODY,
    where: tuple[str, str] = ("gpus", "gpus-0"),
    **more: object,
) -> str:
    """As the access log has it. tokens: of the prompt, of the answer, and of the prompt those that were cached."""
    time = datetime.fromtimestamp(ended_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    line: dict[str, object] = {
        "time": time,
        "request_id": "r",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "duration_ms": duration_s * 1e3,
        "overhead_ms": 0.5,
        "tenant": caller.tenant,
        "key": caller.key,
        "deployment": caller.deployment,
        "pool": where[0],
        "replica": where[1],
        "tokens_in": tokens[0],
        "tokens_out": tokens[1],
        "tokens_cached": tokens[2],
    }
    if ttft_s is not None:
        line["ttft_ms"] = ttft_s * 1e3
    return json.dumps(line | more)


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path
