"""Whether and where an engine is heard of what its KV cache holds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.base import Section

Endpoint = Annotated[str, Field(pattern=r"^(tcp://(\*|\[[0-9A-Fa-f:]+\]|[A-Za-z0-9_.-]+):[1-9][0-9]{0,4}|ipc://\S+)$")]


class KvEvents(Section):
    """What vLLM publishes with `--kv-events-config`; needs the extra `kv-events`. With it routing knows which prefixes
    a replica holds; without, it guesses from what the replica was sent."""

    mode: Literal["auto", "off"] = "auto"
    """auto: vllm is asked for its publishers at `/kv_event_sources`; of another kind, or of a release that does not
    answer there, `endpoint` has to be named."""
    endpoint: Endpoint | None = None
    """ZeroMQ endpoint of the publisher: `tcp://*:5557` for that port of each replica's machine."""
    replay_endpoint: Endpoint | None = None
    """Endpoint for what was missed; without it a lost message leaves guesses, until the engine begins anew."""
    topic: str = ""
    """Topic of the messages; empty: any."""
    ranks: Annotated[int, Field(ge=1, le=64)] = 1
    """Data-parallel ranks of each replica; their publishers are at the ports that follow."""
