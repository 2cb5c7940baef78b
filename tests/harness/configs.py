"""Configurations, and bodies to send."""

from __future__ import annotations

from typing import Any

from engines.fake import FakeEngine

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
MODEL = "m"

Json = dict[str, Any]


NO_SCRAPE: Json = {"every_s": None}
"""Engines are asked for nothing but what a test asks them."""


def config_of(
    *engines: FakeEngine | str,
    server: Json | None = None,
    keys: list[Json] | None = None,
    engine: Json | None = None,
    pool: Json | None = None,
    cache: Json | None = None,
    telemetry: Json | None = None,
    model: str | None = None,
    **deployment: Any,
) -> Json:
    """One deployment `m` with one pool `p`, whose replicas are `engines`: fake engines, or base URLs."""
    urls = [one if isinstance(one, str) else one.url for one in engines]
    variant: Json = {"pools": ["p"]} | ({"model": model} if model else {})
    return {
        "server": {"port": 0} | (server or {}),
        "auth": {"keys": keys or []},
        "pools": {"p": {"urls": urls, "engine": engine or {}, "scrape": NO_SCRAPE} | (pool or {})},
        "deployments": {MODEL: {"variants": {"v": variant}} | deployment},
        "cache": {"store": "memory"} | cache if cache else {},
        "telemetry": telemetry or {},
    }


def chat(content: str = "hello there", **fields: Any) -> Json:
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


def streamed(content: str = "hello there", **fields: Any) -> Json:
    return chat(content, stream=True, **fields)
