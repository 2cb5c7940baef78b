"""Planted secrets never show in logs, traces, metrics or errors (A25)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from gateway.telemetry import logs
from gateway.telemetry.redact import Redactor
from router.breaker import Breaker
from tests.gateway.telemetry.collector import Collector, collecting
from tests.harness import CHAT, Json, Server, chat, config_of, engine_running, serving, streamed

CLIENT_KEY = "sk-planted-client-0a1b2c3d4e5f"
WRONG_KEY = "sk-planted-wrong-9f8e7d6c5b4a"
ENGINE_KEY = "planted-engine-key-without-a-prefix"
ENGINE_HEADER = "planted-engine-header"
SALT = "planted-salt-value"
CONTENT = "planted-content-of-a-user"
COOKIE = "planted-cookie-value"
PLANTED = (CLIENT_KEY, WRONG_KEY, ENGINE_KEY, ENGINE_HEADER, SALT, CONTENT, COOKIE)
OURS = (ENGINE_KEY, ENGINE_HEADER, SALT, CLIENT_KEY)
LEAKY = f"Incorrect API key provided: {ENGINE_KEY} (header {ENGINE_HEADER})"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def secretive(*urls: object, collector: Collector | None = None) -> Json:
    tree = config_of(
        *urls,  # type: ignore[arg-type]
        keys=[{"name": "team", "key": CLIENT_KEY}],
        engine={"api_key": ENGINE_KEY, "headers": {"x-engine": ENGINE_HEADER}},
        telemetry={"tracing": {"otlp_endpoint": collector.url}} if collector else {},
        attempts=1,
    )
    tree["auth"]["salt"] = SALT
    return tree


def headers(key: str = CLIENT_KEY) -> dict[str, str]:
    return {"authorization": f"Bearer {key}", "cookie": f"session={COOKIE}", "x_custom": COOKIE}


def shows(text: str, planted: tuple[str, ...] = PLANTED) -> list[str]:
    return [secret for secret in planted if secret in text]


FAKES: list[Json] = [
    {},
    {"status": 400, "body": {"error": {"message": LEAKY, "code": ENGINE_KEY, "param": ENGINE_KEY}}},
    {"status": 401, "body": {"error": {"message": LEAKY}}},
    {"status": 500, "body": {"error": {"message": LEAKY}}},
    {"status": 500, "body": LEAKY},
    {"status": 503, "body": {"error": {"message": LEAKY}}},
    {"status": 429, "body": {"detail": LEAKY}},
    {"body": {"error": {"message": LEAKY}}},
    {"sse": f'data: {{"error":{{"message":"{LEAKY}"}}}}\n\n'},
    {"sse": f'data: {{"choices":[{{"delta":{{"content":"a"}}}}]}}\n\ndata: {{"error":{{"message":"{LEAKY}"}}}}\n\n'},
    {"raw": f"HTTQ/1.1 {ENGINE_KEY}\r\n\r\n"},
    {"raw": f"HTTP/1.1 200 OK\r\nbad header {ENGINE_KEY}\r\n\r\n"},
    {"die_after": 1},
]


async def ask_everything(server: Server) -> list[str]:
    """Every kind of answer; what clients see of them."""
    seen: list[str] = []
    for fake in FAKES:
        for body in (chat(CONTENT, fake=fake), streamed(CONTENT, fake=fake)):
            answer = await server.post(CHAT, body, **headers())
            seen.append(f"{answer.headers} {answer.text}")
            server.gateway.replicas[0].breaker = Breaker()
    for key in (WRONG_KEY, f"{CLIENT_KEY}x"):
        answer = await server.post(CHAT, chat(CONTENT), **headers(key))
        assert answer.status_code == 401
        seen.append(answer.text)
    paths = (f"/v1/chat/completions?key={WRONG_KEY}", f"/v1/nothing?key={WRONG_KEY}")
    seen.extend([(await server.post(path, chat(CONTENT), **headers())).text for path in paths])
    seen.append((await server.post(CHAT, CONTENT.encode(), **headers())).text)
    seen.append((await server.get("/v1/models", **headers())).text)
    return seen


async def test_a25_no_planted_secret_is_written_down(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    for ours in ("gateway", "engines", "router", "cache", "asyncio"):
        caplog.set_level(logging.DEBUG, ours)
    caplog.set_level(logging.WARNING)
    async with engine_running() as engine, serving(secretive(engine, collector=collector)) as server:
        await ask_everything(server)
        metrics = (await server.get("/metrics")).text
        records = await server.records(2 * len(FAKES) + 4)
        await server.gateway.telemetry.aclose()
    formatter = logs.JsonFormatter(Redactor([ENGINE_KEY, ENGINE_HEADER, SALT, CLIENT_KEY]), 0)
    messages = [formatter.format(record) for record in caplog.records]
    assert not shows(json.dumps(records))
    assert not shows(metrics)
    assert not shows("\n".join(messages))
    assert collector.spans
    assert not shows("\n".join(str(request) for request in collector.requests))


async def test_a25_no_secret_of_the_operator_shows_in_an_answer() -> None:
    """What an engine says of the key that it was given goes to nobody."""
    async with engine_running() as engine, serving(secretive(engine)) as server:
        for seen in await ask_everything(server):
            assert not shows(seen, OURS), seen


async def test_a25_a_wrong_key_is_not_repeated() -> None:
    async with engine_running() as engine, serving(secretive(engine)) as server:
        answer = await server.post(CHAT, chat(), **headers(WRONG_KEY))
        assert answer.status_code == 401
        assert not shows(answer.text + str(answer.headers))


async def test_a25_an_id_that_is_a_secret_is_not_logged() -> None:
    async with engine_running() as engine, serving(secretive(engine)) as server:
        await server.post(CHAT, chat(), x_request_id=CLIENT_KEY, **headers())
        (record,) = await server.records()
        assert not shows(json.dumps(record))


async def test_a25_the_objects_that_people_print_show_no_secret() -> None:
    async with engine_running() as engine, serving(secretive(engine)) as server:
        gateway = server.gateway
        parts = [gateway.config, gateway.replicas, gateway.pipeline, gateway.pipeline.identity, gateway.server]
        assert not shows(" ".join(map(repr, parts)))
