"""What passes through the gateway, and what does not: bodies, headers, credentials, ids (A24)."""

from __future__ import annotations

import json
import re

import pytest

from tests.harness import (
    CHAT,
    Json,
    chat,
    config_of,
    engine_by_hand,
    engine_running,
    request_bytes,
    serving,
    streamed,
    whole,
)

CLIENT_KEY = "sk-client-0123456789abcdef"
KEYS = [{"name": "k", "key": CLIENT_KEY}]
HOSTILE = {
    "authorization": f"Bearer {CLIENT_KEY}",
    "x-api-key": CLIENT_KEY,
    "api-key": CLIENT_KEY,
    "cookie": "session=client-cookie",
    "proxy-authorization": "Basic Y2xpZW50",
    "x-forwarded-for": "10.0.0.1",
    "forwarded": "for=10.0.0.1",
    "user-agent": "client-agent/1.0",
    "accept-encoding": "gzip",
    "openai-organization": "org-client",
    "x-stainless-lang": "python",
    "x-custom": "client-value",
    "connection": "keep-alive",
    "te": "trailers",
    "content-type": "application/json; charset=utf-8",
}
ODD = (
    b'{"zeta": 1.50, "big": 123456789012345678901234567890, "exp": 1E+5, "model": "m",'
    b' "text": "caf\xc3\xa9 \\t\\/",'
    b' "nested": {"b": [1, {"a": null}], "a": {}}, "messages": [ {"role":"user","content":"x","extra":[true]} ],'
    b' "vllm_xargs": {"k": 1}, "neg": -0.0, "empty": "", "stream": %b}'
)


@pytest.mark.parametrize("model", [None, "other"])
@pytest.mark.parametrize("stream", [b"true", b"false"])
async def test_a24_unknown_fields_reach_the_engine_byte_for_byte(stream: bytes, model: str | None) -> None:
    sent = ODD % stream
    async with (
        engine_by_hand() as engine,
        serving(config_of(engine.url, model=model)) as server,
        server.asking(sent) as wire,
    ):
        turn = await engine.turn()
        for raw in (b"1.50", b"123456789012345678901234567890", b"1E+5", b"-0.0", b'"caf\xc3\xa9 \\t\\/"'):
            assert raw in turn.body
        changed: Json = {"model": model or "m"}
        if stream == b"true":
            changed["stream_options"] = {"include_usage": True}
        assert turn.json == json.loads(sent) | changed
        assert list(turn.json)[:3] == ["zeta", "big", "exp"], "the order stays"
        if model is None and stream == b"false":
            assert turn.body == sent
        turn.send(whole(b'{"choices":[{"message":{"content":"a"}}]}'))
        await wire.answer()


async def test_a24_an_answers_bytes_reach_the_client_unchanged() -> None:
    body = b'{ "choices":[ {"message":{"content":"a","x":1.0}, "y": 1E2} ],\n "odd": "\\u00e9", "z": null }\n'
    async with engine_by_hand() as engine, serving(config_of(engine.url)) as server, server.asking(chat()) as wire:
        (await engine.turn()).send(whole(body))
        assert (await wire.answer()).body == body


async def test_a24_an_engine_gets_only_the_headers_of_the_allow_list() -> None:
    options = {"api_key": "sk-engine-key", "headers": {"x-engine": "own"}}
    async with (
        engine_by_hand() as engine,
        serving(config_of(engine.url, engine=options, keys=KEYS)) as server,
        server.asking(streamed(), **{k.replace("-", "_"): v for k, v in HOSTILE.items()}) as wire,
    ):
        turn = await engine.turn()
        assert {name.lower() for name in turn.headers} == {
            "host",
            "content-type",
            "content-length",
            "x-request-id",
            "authorization",
            "x-engine",
        }
        assert turn.headers["authorization"] == "Bearer sk-engine-key"
        assert turn.headers["x-engine"] == "own"
        assert turn.headers["content-type"] == "application/json"
        assert CLIENT_KEY not in turn.head
        assert "client" not in turn.head
        turn.send(whole(b"{}", "500 Oops"))
        await wire.answer()


async def test_a24_without_a_key_of_its_own_an_engine_gets_none() -> None:
    async with (
        engine_by_hand() as engine,
        serving(config_of(engine.url, keys=KEYS)) as server,
        server.asking(chat(), authorization=f"Bearer {CLIENT_KEY}") as wire,
    ):
        turn = await engine.turn()
        assert "authorization" not in turn.head.lower()
        turn.send(whole(b"{}", "500 Oops"))
        await wire.answer()


@pytest.mark.parametrize("status", [200, 400, 500])
async def test_a24_a_client_gets_only_the_headers_of_the_allow_list(status: int) -> None:
    headers = {
        "set-cookie": "engine=1",
        "server": "vllm",
        "x-secret": "1",
        "x-request-id": "engine-id",
        "www-authenticate": "Basic",
        "location": "http://10.0.0.1/",
        "openai-organization": "org",
        "access-control-allow-origin": "*",
    }
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(CHAT, chat(fake={"status": status, "headers": headers}))
        expected = {"content-type", "content-length", "x-request-id", "x-headrace-config", "date"}
        if status == 200:
            expected |= {"x-headrace-variant", "x-headrace-pool", "x-headrace-replica", "x-headrace-attempts"}
            expected |= {"x-headrace-route"}
        assert set(answer.headers) == expected
        assert answer.headers["x-request-id"] != "engine-id"


async def test_a24_the_query_does_not_reach_the_engine() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        assert (await server.post(f"{CHAT}?api-version=2024&key=secret", chat())).status_code == 200
        (request,) = engine.requests
        assert (request.path, request.query) == (CHAT, "")


# Ids


@pytest.mark.parametrize("given", ["my-id-1", "req_0af7651916cd43dd8448eb211c80319c", "A.b:c/d+e=f@g-h"])
async def test_a_request_id_goes_in_and_out(given: str) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(CHAT, chat(), x_request_id=given)
        assert answer.headers["x-request-id"] == given
        assert engine.requests[0].header("x-request-id") == given
        assert (await server.records())[0]["request_id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 200, "é", "-x", "a\tb", '"quoted"'])
async def test_a_request_id_that_is_odd_is_replaced(given: str) -> None:
    async with engine_by_hand() as engine, serving(config_of(engine.url)) as server, server.connected() as wire:
        raw = request_bytes("POST", CHAT, chat(), x_request_id="PLACE").replace(b"PLACE", given.encode())
        await wire.send(raw)
        turn = await engine.turn()
        turn.send(whole(b"{}", "500 Oops"))
        answer = await wire.answer()
        assert re.fullmatch(r"req_[0-9a-f]{32}", answer.head.get("x-request-id") or "")
        assert turn.headers["x-request-id"] == answer.head.get("x-request-id")


async def test_every_answer_has_an_id_of_its_own() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        ids = [(await server.post(CHAT, body)).headers["x-request-id"] for body in [chat(), b"{", chat(model="y")] * 2]
        assert len(set(ids)) == 6


async def test_a_traceparent_is_passed_on() -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with engine_running() as engine, serving(config_of(engine)) as server:
        await server.post(CHAT, chat(), traceparent=parent)
        assert engine.requests[0].header("traceparent") == parent
        await server.post(CHAT, chat(), traceparent="nonsense")
        assert engine.requests[1].header("traceparent") is None
