"""Chat apps in browsers: who may read answers, and what a preflight says."""

from __future__ import annotations

import pytest

from tests.harness import CHAT, chat, config_of, engine_running, serving

APP = "https://chat.example"


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ([APP], APP, APP),
        ([APP + "/"], APP, APP),
        (["*"], "https://anywhere.example", "*"),
        ([APP], "https://evil.example", None),
        ([], APP, None),
    ],
)
async def test_an_answer_names_the_origins_that_may_read_it(
    origins: list[str], origin: str, allowed: str | None
) -> None:
    async with (
        engine_running() as engine,
        serving(config_of(engine, server={"cors_origins": origins})) as server,
        server.client() as client,
    ):
        for path, body in ((CHAT, chat()), (CHAT, {"model": "nope"})):
            answer = await client.post(path, json=body, headers={"origin": origin})
            assert answer.headers.get("access-control-allow-origin") == allowed
        models = await client.get("/v1/models", headers={"origin": origin})
        assert models.headers.get("access-control-allow-origin") == allowed


async def test_a_preflight_is_answered_without_a_key() -> None:
    keys = [{"name": "k", "key": "sk-planted-key"}]
    async with (
        engine_running() as engine,
        serving(config_of(engine, keys=keys, server={"cors_origins": [APP]})) as server,
        server.client() as client,
    ):
        asked = {
            "origin": APP,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, x-stainless-lang",
        }
        answer = await client.options(CHAT, headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == APP
        assert answer.headers["access-control-allow-headers"] == "authorization, x-stainless-lang"
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert engine.stats.requests == 0


async def test_without_origins_there_is_no_preflight() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server, server.client() as client:
        answer = await client.options(CHAT, headers={"origin": APP, "access-control-request-method": "POST"})
        assert answer.status_code == 405
        assert "access-control-allow-origin" not in answer.headers
