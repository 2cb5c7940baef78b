"""What is wrong with the response cache is told at its place, before anything starts."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec

import pytest

from gateway.config import Config
from gateway.config.checks import check
from tests.harness import Json

ENDPOINT = {"kind": "endpoint", "url": "http://embed:8080/v1", "model": "bge"}


def problems(cache: Json, **others: Json) -> list[str]:
    config = Config.model_validate({"cache": {"enabled": True, **cache}, **others})
    found = [f"{'.'.join(map(str, finding.path))}: {finding.message} ({finding.hint})" for finding in check(config)]
    return [text for text in found if text.startswith("cache")]


def semantic(**options: object) -> Json:
    return {"semantic": {"enabled": True, **options}}


@pytest.mark.parametrize(
    "cache",
    [
        {},
        {"store": "memory"},
        semantic(),
        semantic(embedder={"kind": "static"}),
        semantic(embedder={**ENDPOINT, "key": "sk-1"}),
        semantic(embedder={"path": "."}),
        {"semantic": {"embedder": {"kind": "endpoint"}, "judge": {"deployment": "none"}}},
    ],
)
def test_the_cache_may_be_had_in_these_ways(cache: Json) -> None:
    assert problems(cache) == []


@pytest.mark.parametrize(
    ("cache", "problem"),
    [
        ({"store": "redis"}, "cache.store: there is no `redis` ("),
        ({"enabled": False, **semantic()}, "cache.semantic.enabled: nothing is kept: `cache.enabled` is off ("),
        (semantic(judge={"deployment": "gone"}), 'cache.semantic.judge.deployment: "gone" is no deployment ('),
        (semantic(embedder={"path": "/nowhere"}), 'cache.semantic.embedder.path: there is no folder "/nowhere" ('),
        (semantic(embedder={"url": "http://a"}), "cache.semantic.embedder.url: `url` goes with `kind: endpoint` ("),
        (semantic(embedder={**ENDPOINT, "url": None}), "cache.semantic.embedder.kind: an endpoint needs its `url` ("),
        (
            semantic(embedder={**ENDPOINT, "url": "h/v1"}),
            "cache.semantic.embedder.url: an endpoint is reached",
        ),
        (semantic(embedder={**ENDPOINT, "path": "."}), "cache.semantic.embedder.path: an endpoint has its own weights"),
    ],
)
def test_what_cannot_be_meant_is_said(cache: Json, problem: str) -> None:
    (found,) = problems(cache)
    assert found.startswith(problem)


def test_libraries_that_are_missing_are_named_with_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in ("usearch", "onnxruntime") else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    needed = "cache.semantic.enabled: `cache.semantic` needs libraries that are not installed: {} "
    hint = '(pip install "headrace[semantic-cache]")'
    assert problems(semantic()) == [needed.format("usearch, onnxruntime") + hint]
    assert problems(semantic(embedder={"kind": "static"})) == [needed.format("usearch") + hint]
    assert problems({}) == [], "word for word nothing is needed"
