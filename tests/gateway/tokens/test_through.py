"""Caps and counts through the whole gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.harness import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    Json,
    chat,
    config_of,
    engine_running,
    nobody,
    serving,
    streamed,
)

AUTH = {"authorization": "Bearer key-of-acme"}


def limited(*engines: Any, limits: Json, **fields: Any) -> Json:
    keys = [{"name": "k", "key": "key-of-acme", "tenant": "acme"}, {"name": "o", "key": "key-of-other"}]
    return config_of(*engines, keys=keys, **fields) | {"tenants": {"acme": {"limits": limits}}}


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (CHAT, chat("word " * 400), 400, "input_tokens_limit"),
        (CHAT, chat("word " * 100), 200, None),
        (COMPLETIONS, {"model": "m", "prompt": [1] * 201}, 400, "input_tokens_limit"),
        (COMPLETIONS, {"model": "m", "prompt": [1] * 200}, 200, None),
        (EMBEDDINGS, {"model": "m", "input": "word " * 400}, 400, "input_tokens_limit"),
        (CHAT, chat(max_tokens=51), 400, "output_tokens_limit"),
        (CHAT, streamed(max_completion_tokens=51), 400, "output_tokens_limit"),
        (CHAT, chat(max_tokens="51"), 400, "invalid_type"),
        (CHAT, chat(max_tokens=50), 200, None),
    ],
)
async def test_what_is_over_a_cap_is_refused_before_any_engine_sees_it(
    path: str, body: Json, status: int, code: str | None
) -> None:
    async with engine_running() as engine:
        config = limited(engine, limits={"input_tokens": 200, "output_tokens": 50})
        async with serving(config) as server:
            answer = await server.post(path, body, **AUTH)
            assert answer.status_code == status, answer.text
            assert engine.stats.requests == (status == 200)
            if code is not None:
                error = answer.json()["error"]
                assert (error["code"], error["type"]) == (code, "invalid_request_error")
                assert "acme" in error["message"]
            free = await server.post(path, body | {"max_tokens": 51}, authorization="Bearer key-of-other")
            assert free.status_code == 200, "nobody else is limited"


@pytest.mark.parametrize(
    ("fields", "added"),
    [
        ({}, {"max_tokens": 50}),
        ({"max_tokens": 7}, {}),
        ({"max_completion_tokens": 7}, {}),
        ({"max_tokens": None}, {"max_tokens": 50}),
    ],
)
async def test_a24_an_answer_without_a_limit_gets_the_cap_and_no_other_field_changes(fields: Json, added: Json) -> None:
    async with (
        engine_running(output_tokens=80) as engine,
        serving(limited(engine, limits={"output_tokens": 50})) as server,
    ):
        sent = chat(zeta=1.5, **fields)
        answer = await server.post(CHAT, sent, **AUTH)
        assert json.loads(engine.requests[0].body) == sent | added
        assert answer.json()["usage"]["completion_tokens"] == (50 if added else 7)


async def test_a_fallback_is_capped_as_well() -> None:
    with nobody() as dead:
        async with engine_running(output_tokens=80) as other:
            config = limited(dead, limits={"output_tokens": 50}, fallbacks={"error": ["spare"]}, attempts=2)
            config["pools"]["q"] = {"urls": [other.url]}
            config["deployments"]["spare"] = {"variants": {"v": {"pools": ["q"], "model": "m"}}}
            async with serving(config) as server:
                answer = await server.post(CHAT, chat(), **AUTH)
                assert answer.headers["x-headrace-fallback"] == "spare"
                assert answer.json()["usage"]["completion_tokens"] == 50


async def test_a21_the_cache_keeps_answers_of_different_caps_apart() -> None:
    async with engine_running(output_tokens=20) as engine:
        config = limited(engine, limits={}, cache={"enabled": True, "store": "memory"})
        config["auth"]["keys"][0]["limits"] = {"output_tokens": 50}
        config["auth"]["keys"].append({"name": "long", "key": "key-of-long", "tenant": "acme"})
        async with serving(config) as server:
            for key in ("acme", "long", "acme", "long"):
                await server.post(CHAT, chat(), authorization=f"Bearer key-of-{key}")
            assert engine.stats.requests == 2


async def test_a04_what_a_call_may_use_is_reserved_before_it_is_sent() -> None:
    """A limit of tokens holds for what is asked, not for what turns out."""
    async with (
        engine_running(output_tokens=5) as engine,
        serving(limited(engine, limits={"tokens_per_minute": 1000})) as server,
    ):
        answer = await server.post(CHAT, chat(max_tokens=2000), **AUTH)
        assert (answer.status_code, engine.stats.requests) == (429, 0)
        answer = await server.post(CHAT, chat(max_tokens=300, n=4), **AUTH)
        assert (answer.status_code, engine.stats.requests) == (429, 0)
        assert (await server.post(CHAT, chat(max_tokens=900), **AUTH)).status_code == 200
