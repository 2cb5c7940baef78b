"""Which path answers what: health, models, keys, errors of the API itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.keys import hash_key
from tests.harness import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    Json,
    Server,
    Watch,
    chat,
    config_of,
    engine_running,
    nobody,
    serving,
    settled,
    streamed,
)

SHAPE = {"message", "type", "param", "code"}
HEALTH = ("/health/live", "/health/liveliness", "/liveness")
READY = ("/health/ready", "/health", "/healthz", "/readyz", "/readiness")
BODIES: dict[str, Json] = {
    CHAT: chat(),
    COMPLETIONS: {"model": "m", "prompt": "x"},
    EMBEDDINGS: {"model": "m", "input": "x"},
    "/v1/tokenize": {"model": "m", "prompt": "a b"},
    "/v1/detokenize": {"model": "m", "tokens": [97]},
}


def team_config(*engines: Any) -> Json:
    """Three keys, two deployments: `all` may call both, `one` only `m`."""
    tree = config_of(*engines, aliases=["em"])
    tree["deployments"]["second"] = {"variants": {"v": {"pools": ["p"], "model": "m"}}, "aliases": ["zwei"]}
    tree["auth"] = {
        "salt": "salt",
        "keys": [
            {"name": "all", "key": "key-for-all"},
            {"name": "one", "hash": hash_key("key-for-one", "salt"), "deployments": ["m"], "tenant": "t1"},
        ],
    }
    return tree


ALL = {"authorization": "Bearer key-for-all"}
ONE = {"authorization": "Bearer key-for-one"}


@pytest.mark.parametrize("path", HEALTH + READY)
async def test_health_answers_without_a_key_and_calls_no_engine(path: str) -> None:
    async with engine_running() as engine, serving(team_config(engine)) as server:
        answer = await server.get(path)
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
        assert engine.requests == []


async def test_readiness_counts_the_replicas_that_may_be_asked() -> None:
    with nobody() as dead:
        async with engine_running() as engine, serving(config_of(engine, dead)) as server:
            assert (await server.get("/health/ready")).json()["available_replicas"] == {"m": 2}
            for _ in range(8):
                await server.post(CHAT, chat())
            assert (await server.get("/health/ready")).json()["available_replicas"] == {"m": 1}


async def test_a23_readiness_is_lost_as_soon_as_it_drains() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        async with server.client() as kept:
            await kept.get("/health/ready")
            draining = asyncio.create_task(server.gateway.drain(1.0, grace_s=0.5))
            await settled(lambda: not server.gateway.server.draining, "not draining")
            answer = await kept.get("/health/ready")
        await draining
        assert (answer.status_code, answer.json()["status"]) == (503, "draining")
        assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("1", "1000")
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("prefix", ["/v1", ""])
async def test_every_model_route_answers_with_and_without_v1(path: str, prefix: str) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(prefix + path.removeprefix("/v1"), BODIES[path])
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-headrace-replica"] == "p-0"


@pytest.mark.parametrize("prefix", ["/v1", ""])
async def test_models_are_those_that_the_key_may_call(prefix: str) -> None:
    async with engine_running() as engine, serving(team_config(engine)) as server:
        for key, names in ((ALL, ["m", "second"]), (ONE, ["m"])):
            answer = await server.get(f"{prefix}/models", **key)
            assert answer.json()["object"] == "list"
            assert [model["id"] for model in answer.json()["data"]] == names
            assert {"id", "object", "created", "owned_by"} <= set(answer.json()["data"][0])
        assert (await server.get(f"{prefix}/models")).status_code == 401


@pytest.mark.parametrize(
    ("name", "key", "status", "code"),
    [
        ("m", ALL, 200, ""),
        ("em", ONE, 200, ""),
        ("second", ALL, 200, ""),
        ("second", ONE, 403, "model_not_allowed"),
        ("nothing", ALL, 404, "model_not_found"),
        ("org/with/slashes", ALL, 404, "model_not_found"),
        ("m", {}, 401, "missing_api_key"),
    ],
)
async def test_one_model_by_name(name: str, key: dict[str, str], status: int, code: str) -> None:
    async with engine_running() as engine, serving(team_config(engine)) as server:
        for prefix in ("/v1", ""):
            answer = await server.get(f"{prefix}/models/{name}", **key)
            assert answer.status_code == status
            if status == 200:
                assert answer.json()["object"] == "model"
                assert answer.json()["id"] == ("m" if name == "em" else name)
            else:
                assert answer.json()["error"]["code"] == code
                assert set(answer.json()["error"]) == SHAPE


# Who may call


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer key-for-one"},
        {"authorization": "bearer key-for-one"},
        {"x_api_key": "key-for-one"},
        {"api_key": "key-for-one"},
    ],
)
async def test_a_key_is_taken_from_the_headers_that_sdks_use(headers: dict[str, str]) -> None:
    async with engine_running() as engine, serving(team_config(engine)) as server:
        assert (await server.post(CHAT, chat(), **headers)).status_code == 200
        (record,) = await server.records()
        assert (record["key"], record["tenant"]) == ("one", "t1")


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/models/m", EMBEDDINGS])
async def test_a18_every_key_that_is_not_valid_gets_the_same_answer(path: str) -> None:
    wrong = ["key-for-onE", "key-for-one2", "key-for-on", "sk-revoked", "x" * 3000]
    async with engine_running() as engine, serving(team_config(engine)) as server:
        method = "GET" if "models" in path else "POST"
        texts = set()
        for key in wrong:
            answer = await server.request(method, path, headers={"authorization": f"Bearer {key}"}, content=b"{}")
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
            texts.add(answer.text)
        assert len(texts) == 1
        assert json.loads(texts.pop())["error"]["code"] == "invalid_api_key"
        assert engine.stats.requests == 0


@pytest.mark.parametrize("headers", [{}, {"authorization": ""}, {"authorization": "Bearer"}, {"x_api_key": ""}])
async def test_no_key_is_said_to_be_missing(headers: dict[str, str]) -> None:
    async with engine_running() as engine, serving(team_config(engine)) as server:
        answer = await server.post(CHAT, chat(), **headers)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (401, "authentication_error", "missing_api_key")
        assert set(error) == SHAPE


async def test_a_key_may_call_what_its_deployments_list() -> None:
    async with engine_running() as engine, serving(team_config(engine)) as server:
        answer = await server.post(CHAT, chat(model="second"), **ONE)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (403, "permission_error", "model_not_allowed")
        assert error["param"] == "model"
        assert (await server.post(CHAT, chat(model="zwei"), **ONE)).status_code == 403
        assert (await server.post(CHAT, chat(model="zwei"), **ALL)).status_code == 200
        assert json.loads(engine.requests[0].body)["model"] == "m"
        (record,) = [r for r in await server.records(3) if r["status"] == 200]
        assert record["deployment"] == "second"


async def test_without_keys_everybody_on_this_machine_may_call() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        assert (await server.post(CHAT, chat(), authorization="Bearer whatever")).status_code == 200


# What is wrong with a request


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b'"m"', "invalid_json", None),
        (b"null", "invalid_json", None),
        (b"\xff\xfe", "invalid_json", None),
        (b"{}", "missing_required_parameter", "model"),
        (b'{"model":""}', "missing_required_parameter", "model"),
        (b'{"model":7}', "invalid_type", "model"),
        (b'{"model":null}', "invalid_type", "model"),
        (b'{"model":"m","stream":"yes"}', "invalid_type", "stream"),
        (b'{"model":"m","stream_options":[]}', "invalid_type", "stream_options"),
        (b'{"model":' + b"[" * 100_000, "invalid_json", None),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_a09_a_body_that_cannot_be_read_is_a_400_in_openais_shape(body: bytes, code: str, param: str) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(CHAT, body)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
        assert error["code"] in (code, "invalid_type" if b"[[" in body else code)
        assert code == "invalid_json" or error["param"] == param
        assert set(error) == SHAPE
        assert engine.stats.requests == 0


async def test_a_compressed_body_is_refused_with_the_reason() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(CHAT, b"\x1f\x8b", content_encoding="gzip")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_content_encoding")


async def test_an_unknown_model_is_a_404_that_names_it() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        error = (await server.post(CHAT, chat(model="gpt-5"))).json()["error"]
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "model_not_found", "model")
        assert "gpt-5" in error["message"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", [CHAT, "/embeddings", "/tokenize"])
async def test_a_model_route_takes_post_alone(method: str, path: str) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/metrics", "/version"])
async def test_other_routes_name_their_methods(path: str) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.request("DELETE", path)
        assert answer.status_code == 405
        assert "GET" in answer.headers["allow"]
        assert set(answer.json()["error"]) == SHAPE


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v2/models", "/v1/chat/completions/", "//", "/%00"])
async def test_a_path_with_nothing_behind_it_is_a_404_in_openais_shape(path: str, method: str) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.request(method, path)
        assert answer.status_code == 404
        if method != "HEAD":
            assert answer.json()["error"]["code"] == "not_found"
            assert set(answer.json()["error"]) == SHAPE


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/version"])
async def test_head_is_get_without_its_body(path: str) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        head, get = await server.request("HEAD", path), await server.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"] == str(len(get.content))


async def test_options_says_what_may_be_done() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.request("OPTIONS", CHAT)
        assert answer.status_code in (200, 204, 405)
        assert "POST" in answer.headers["allow"]


# Service


async def test_metrics_and_version_are_served() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        answer = await server.get("/metrics", accept="application/openmetrics-text; version=1.0.0")
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")
        assert (await server.get("/version")).json()["version"]
        assert (await server.get("/openapi.json")).json()["openapi"].startswith("3.1")
        assert (await server.get("/docs")).status_code == 200


@pytest.mark.e2e
async def test_a23_liveness_answers_under_load_within_50_ms_at_p99() -> None:
    async with engine_running(itl_s=0.01, output_tokens=60) as engine, serving(config_of(engine)) as server:
        async with server.client() as streams, server.client() as probe, asyncio.TaskGroup() as group:
            for _ in range(40):
                group.create_task(streams.post(CHAT, json=streamed()))
            await engine.arrived(40)
            times = [await one_probe(server, probe) for _ in range(60)]
        assert sorted(times)[-2] < 0.05


async def one_probe(server: Server, client: Any) -> float:
    with Watch() as watch:
        assert (await client.get("/health/live")).status_code == 200
    return watch.own_s
