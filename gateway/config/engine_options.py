"""What a pool says about its engines: which kind they are, how the gateway is let in, how to run them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from gateway.config.base import Section

Kind = Literal["openai", "vllm", "llamacpp", "fake"]


class EngineOptions(Section):
    """How to speak to the replicas of a pool, and how to run them if the gateway is to start them."""

    kind: Kind = "openai"
    """What the replicas speak; `openai` is any compatible server. docs/guide/engines.md has them all."""
    api_key: SecretStr | None = None
    """Sent to the engine as a bearer token. A caller's own credentials never are."""
    headers: dict[str, SecretStr] = {}
    """More headers for every request to the engine."""
    ca_file: str | None = None
    """PEM bundle to trust for an https engine, instead of the system's."""
    model: str | None = None
    """llamacpp: what to run: a name from `headrace models list`, a GGUF path, or `hf:owner/repo/file.gguf`."""
    context_tokens: Annotated[int, Field(ge=256)] = 8192
    """llamacpp: size of the KV cache shared by all slots, in tokens."""
    slots: Annotated[int, Field(ge=1, le=256)] = 8
    """llamacpp: requests decoded together."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """llamacpp: CPU threads; none: one per core."""
    args: list[str] = []
    """fake: more command-line arguments of `headrace fake-engine`."""
