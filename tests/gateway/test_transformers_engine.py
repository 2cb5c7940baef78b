"""`kind: transformers` behind the gateway: its server's ways are no surprise to a caller."""

from __future__ import annotations

from tests.harness import CHAT, chat, config_of, engine_running, serving

REFUSES = {"refuse_unknown_fields": True, "models": ("/models/m",)}
ENGINE = {"kind": "transformers", "model": "/models/m", "api_key": "secret"}


async def test_a_body_is_put_into_the_fields_that_the_server_takes() -> None:
    async with (
        engine_running(**REFUSES, api_key="secret") as engine,
        serving(config_of(engine, engine=ENGINE)) as server,
    ):
        async with server.client() as client:
            body = chat(max_completion_tokens=3, prompt_cache_key="a", safety_identifier="b")
            answer = await client.post(CHAT, json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 3
        seen = engine.requests[-1]
        assert b"max_completion_tokens" not in seen.body
        assert b'"/models/m"' in seen.body


async def test_what_the_server_would_ignore_is_refused_and_harms_no_replica() -> None:
    async with (
        engine_running(**REFUSES) as engine,
        serving(config_of(engine, engine={"kind": "transformers"})) as server,
    ):
        async with server.client() as client:
            refused = await client.post(CHAT, json=chat(response_format={"type": "json_object"}))
            unknown = await client.post(CHAT, json=chat(top_k=3))
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "unsupported_parameter"
        assert refused.json()["error"]["param"] == "response_format"
        assert unknown.status_code == 400
        assert "top_k" in unknown.json()["error"]["message"]
