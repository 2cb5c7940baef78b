"""What is wrong with the response cache, and with what compares questions for it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config.cache_options import EmbedderOptions
from gateway.config.models import Config
from gateway.config.problems import Finding, KeyPath, did_you_mean
from gateway.prices import PriceTable, shipped
from gateway.prices.overrides import overrides_of

_SEMANTIC: KeyPath = ("cache", "semantic")
_EMBEDDER: KeyPath = (*_SEMANTIC, "embedder")
_INDEX = ("numpy", "usearch")
_LIBRARIES = {
    "minilm": (*_INDEX, "tokenizers", "onnxruntime"),
    "static": (*_INDEX, "tokenizers"),
    "endpoint": _INDEX,
}
"""By `cache.semantic.embedder.kind`."""


def cache_findings(config: Config) -> Iterator[Finding]:
    cache = config.cache
    if cache.enabled and cache.store == "redis" and config.redis is None:
        yield Finding(("cache", "store"), "there is no `redis`", "add `redis: {url: …}`", value="redis")
    if not cache.semantic.enabled:
        return
    if not cache.enabled:
        message = "nothing is kept: `cache.enabled` is off"
        yield Finding((*_SEMANTIC, "enabled"), message, "switch that on as well", severity="warning")
    judge = cache.semantic.judge.deployment
    if judge is not None and judge not in config.deployments:
        hint = did_you_mean(judge, config.deployments)
        path = (*_SEMANTIC, "judge", "deployment")
        yield Finding(path, f'"{judge}" is no deployment', hint, value=judge)
    elif judge is not None and cache.semantic.judge.max_usd_per_day is not None:
        yield from _prices(judge, config)
    yield from _embedder(cache.semantic.embedder)


def _prices(judge: str, config: Config) -> Iterator[Finding]:
    """What costs nothing that is known would never come to its limit."""
    table = PriceTable(shipped(), overrides_of(config))
    for variant in config.deployments[judge].variants.values():
        model = variant.model or judge
        if table.find(model) is None:
            message = f'what "{model}" costs is not known, a model of the judge'
            hint = f'add `prices: {{"{model}": {{input: …, output: …}}}}`, in USD for a million tokens'
            yield Finding((*_SEMANTIC, "judge", "max_usd_per_day"), message, hint, at_key=True)
            return


def _embedder(embedder: EmbedderOptions) -> Iterator[Finding]:
    missing = [name for name in _LIBRARIES[embedder.kind] if importlib.util.find_spec(name) is None]
    if missing:
        message = f"`cache.semantic` needs libraries that are not installed: {', '.join(missing)}"
        yield Finding((*_SEMANTIC, "enabled"), message, 'pip install "headrace[semantic-cache]"', at_key=True)
    if embedder.kind == "endpoint":
        yield from _endpoint(embedder)
        return
    for name in ("url", "model", "key"):
        if getattr(embedder, name) is not None:
            yield Finding(
                (*_EMBEDDER, name), f"`{name}` goes with `kind: endpoint`", "keep one of the two", at_key=True
            )
    folder = embedder.path
    if folder is not None and not Path(folder).expanduser().is_dir():
        message = f'there is no folder "{folder}"'
        yield Finding((*_EMBEDDER, "path"), message, f"relative paths start at {Path.cwd()}", value=folder)


def _endpoint(embedder: EmbedderOptions) -> Iterator[Finding]:
    for name in ("url", "model"):
        if getattr(embedder, name) is None:
            yield Finding((*_EMBEDDER, "kind"), f"an endpoint needs its `{name}`", f"add `{name}`", value="endpoint")
    url = urlsplit(embedder.url or "http://none")
    if url.scheme not in ("http", "https") or not url.hostname:
        hint = "as in https://embeddings.example/v1"
        yield Finding((*_EMBEDDER, "url"), "an endpoint is reached over HTTP", hint, value=embedder.url)
    if embedder.path is not None:
        yield Finding((*_EMBEDDER, "path"), "an endpoint has its own weights", "leave out `path`", at_key=True)
