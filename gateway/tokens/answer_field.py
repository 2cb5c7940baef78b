"""In which field an engine is told how long an answer may be."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from gateway.config import Pool
from gateway.wire import MAX_TOKENS

MAX_COMPLETION_TOKENS = "max_completion_tokens"
_OPENAI = "openai.com"


def chat_limit(pools: Iterable[Pool]) -> str:
    """Of chats at any of these pools. OpenAI's newer models refuse `max_tokens`; other servers may not know the newer
    name, and would ignore it."""
    return MAX_COMPLETION_TOKENS if all(_is_openai(pool) for pool in pools) else MAX_TOKENS


def _is_openai(pool: Pool) -> bool:
    if pool.engine.kind == "azure":
        return True
    hosts = [urlsplit(url).hostname or "" for url in pool.urls]
    return pool.engine.kind == "openai" and bool(hosts) and all(_is_theirs(host) for host in hosts)


def _is_theirs(host: str) -> bool:
    return host == _OPENAI or host.endswith(f".{_OPENAI}")
