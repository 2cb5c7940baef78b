"""How the engines of a variant are told how long an answer may be."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from gateway.config import Pool
from gateway.wire import MAX_TOKENS, LimitWords

MAX_COMPLETION_TOKENS = "max_completion_tokens"
USUAL_COMPLETION = 16
"""OpenAI's default, which vLLM has too."""
_OPENAI = "openai.com"


def limit_words(pools: Iterable[Pool]) -> LimitWords:
    """At any of these pools. OpenAI's newer models refuse `max_tokens`; other servers may not know the newer name, and
    would ignore it."""
    given = list(pools)
    theirs = [_is_openai(pool) for pool in given]
    ends = all(one or pool.engine.kind == "vllm" for one, pool in zip(theirs, given, strict=True))
    return LimitWords(MAX_COMPLETION_TOKENS if all(theirs) else MAX_TOKENS, USUAL_COMPLETION if ends else None)


def _is_openai(pool: Pool) -> bool:
    if pool.engine.kind == "azure":
        return True
    hosts = [urlsplit(url).hostname or "" for url in pool.urls]
    return pool.engine.kind == "openai" and bool(hosts) and all(_is_theirs(host) for host in hosts)


def _is_theirs(host: str) -> bool:
    return host == _OPENAI or host.endswith(f".{_OPENAI}")
