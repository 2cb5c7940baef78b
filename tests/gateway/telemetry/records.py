"""Records as the data plane would hand them over."""

from __future__ import annotations

import msgspec

from gateway.record import Record, Usage

STARTED_S = 1000.0
_USUAL = Record(
    request_id="req_0123456789abcdef0123456789abcdef",
    started_s=STARTED_S,
    path="/v1/chat/completions",
    operation="chat",
    client="192.0.2.7",
    tenant="acme",
    key_name="acme-app",
    deployment="m",
    variant="m-q4",
    pool="local",
    replica="local/0",
    engine_kind="vllm",
    engine_model="org/m",
    stream=True,
    attempts=1,
    status=200,
    finish_reason="stop",
    events=101,
    bytes_out=20_000,
    upstream_s=0.9998,
    first_token_s=STARTED_S + 0.05,
    last_token_s=STARTED_S + 0.95,
    ended_s=STARTED_S + 1.0,
)


def record(usage: Usage | None = None, **changes: object) -> Record:
    """A streamed chat of one second: 20 tokens in (8 cached), 10 out, first token after 50 ms, 0.2 ms of overhead."""
    usage = usage or Usage(prompt_tokens=20, completion_tokens=10, cached_tokens=8)
    return msgspec.structs.replace(_USUAL, usage=usage, **changes)


def refused(**changes: object) -> Record:
    """The same, refused with a 429 before any engine was asked."""
    nothing: dict[str, object] = {
        "status": 429,
        "error_type": "rate_limit_exceeded",
        "engine_kind": "",
        "engine_model": "",
        "pool": "",
        "replica": "",
        "attempts": 0,
        "first_token_s": 0.0,
        "last_token_s": 0.0,
        "upstream_s": 0.0,
        "finish_reason": "",
        "ended_s": STARTED_S + 0.0004,
    }
    return record(Usage(), **{**nothing, **changes})
