"""Clouds behind the gateway, asked by OpenAI's own client: what reaches the cloud, and what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from gateway.config import Config
from gateway.config.checks import check
from gateway.config.load import parse_config
from gateway.config.secrets import secrets_of
from tests.engines.anthropic_messages import START, TALK, USAGE, block, ending, event, named
from tests.engines.clouds import Cloud, Json, answer, cloud, events, stream
from tests.engines.server import Peer, engine_server
from tests.engines.test_azure import TENANT, authority
from tests.engines.test_vertex import service_account, token
from tests.harness import MODEL, Server, config_of, serving, streamed

HI: list[Any] = [{"role": "user", "content": "Hi"}]
DONE = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "x",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}
CHUNK = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "x"}


@pytest.fixture(autouse=True)
def no_proxy_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@asynccontextmanager
async def gateway(peer: Cloud, engine: Json, model: str = "theirs") -> AsyncIterator[tuple[Server, openai.AsyncOpenAI]]:
    config = config_of(peer.url, engine=engine, pool={"site": "cloud"}, model=model)
    async with (
        serving(config) as server,
        openai.AsyncOpenAI(api_key="caller", base_url=f"{server.url}/v1", max_retries=0) as client,
    ):
        yield server, client


def told(error: openai.APIStatusError) -> Json:
    found: Json = error.response.json()["error"]
    return found


# OpenAI itself


@pytest.mark.parametrize("limit", [{"max_tokens": 5}, {"max_completion_tokens": 5}])
async def test_openai_gets_either_limit_as_the_caller_wrote_it(limit: Json) -> None:
    """A24."""
    async with cloud(answer(DONE)) as peer, gateway(peer, {"api_key": "sk-ours"}) as (_, client):
        found = await client.chat.completions.create(model=MODEL, messages=HI, **limit)
    assert found.choices[0].message.content == "Hello"
    assert peer.seen[0].json == {"model": "theirs", "messages": HI, **limit}
    assert peer.seen[0].headers["authorization"] == "Bearer sk-ours"


# Azure OpenAI


async def test_azure_streams_with_its_filter_results_first() -> None:
    body = events(
        {
            "choices": [],
            "created": 0,
            "id": "",
            "model": "",
            "object": "",
            "prompt_filter_results": [{"prompt_index": 0}],
        },
        {**CHUNK, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None}]},
        {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "content_filter_results": {}}]},
        {**CHUNK, "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}},
    )
    async with cloud(stream(body)) as peer, gateway(peer, {"kind": "azure", "api_key": "az"}) as (server, client):
        chunks = [one async for one in await client.chat.completions.create(model=MODEL, messages=HI, stream=True)]
        record = (await server.records())[0]
    assert [one.choices[0].delta.content for one in chunks if one.choices] == ["Hi", None]
    assert chunks[0].choices == []
    assert peer.seen[0].line == "POST /openai/v1/chat/completions HTTP/1.1"
    assert peer.seen[0].headers["api-key"] == "az"
    assert "caller" not in str(peer.seen[0].headers)
    assert (record["tokens_in"], record["tokens_out"]) == (7, 1)


async def test_azures_classic_path_names_the_deployment() -> None:
    engine = {"kind": "azure", "api_key": "az", "azure": {"api_version": "2024-10-21"}}
    async with cloud(answer(DONE)) as peer, gateway(peer, engine, "my-gpt") as (_, client):
        await client.chat.completions.create(model=MODEL, messages=HI)
    assert peer.paths() == ["/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21"]


async def test_a_key_that_azure_refuses_is_told_with_the_settings_that_azure_has() -> None:
    """A09."""
    async with cloud(answer({}, 401)) as peer, gateway(peer, {"kind": "azure", "api_key": "az"}) as (_, client):
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model=MODEL, messages=HI)
    assert told(caught.value)["code"] == "upstream_auth"
    assert "check `engine.api_key` or `engine.azure` of the pool" in told(caught.value)["message"]


async def test_what_azures_filter_stops_is_the_callers_400() -> None:
    """A09."""
    failure = {
        "error": {
            "message": "The prompt was filtered.",
            "type": None,
            "param": "prompt",
            "code": "content_filter",
            "status": 400,
            "innererror": {"code": "ResponsibleAIPolicyViolation"},
        }
    }
    async with cloud(answer(failure, 400)) as peer, gateway(peer, {"kind": "azure", "api_key": "az"}) as (_, client):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model=MODEL, messages=HI)
    assert told(caught.value)["code"] == "content_filter"
    assert told(caught.value)["message"] == "The prompt was filtered."


async def test_azures_wait_in_milliseconds_reaches_the_caller() -> None:
    """A20."""
    failure = {"error": {"code": "429", "message": "Requests have exceeded the rate limit."}}
    full = answer(failure, 429, retry_after_ms="1500")
    async with cloud(full) as peer, gateway(peer, {"kind": "azure", "api_key": "az"}) as (_, client):
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model=MODEL, messages=HI)
    assert caught.value.response.headers["retry-after-ms"] == "1500"


async def test_a_deployment_that_azure_does_not_have_is_a_fault_of_the_configuration() -> None:
    missing = answer({"error": {"code": "DeploymentNotFound", "message": "It does not exist."}}, 404)
    async with cloud(missing) as peer, gateway(peer, {"kind": "azure", "api_key": "az"}) as (_, client):
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model=MODEL, messages=HI)
    assert told(caught.value)["code"] == "upstream_model_not_found"


async def test_entra_id_lets_the_gateway_into_azure(tmp_path: Path) -> None:
    """By azure-identity, against a tenant's authority over TLS."""
    async with authority(tmp_path) as (tenant, ca_file), cloud(answer(DONE)) as peer:
        entra = {
            "entra": True,
            "tenant_id": TENANT,
            "client_id": "app",
            "client_secret": "right",
            "authority": tenant.url,
        }
        engine = {"kind": "azure", "ca_file": ca_file, "azure": entra}
        async with gateway(peer, engine) as (_, client):
            for _ in range(2):
                await client.chat.completions.create(model=MODEL, messages=HI)
    assert {seen.headers["authorization"] for seen in peer.seen} == {
        "Bearer for https://cognitiveservices.azure.com/.default"
    }
    assert len(tenant.seen) == 2


# Google Vertex AI


async def test_a_service_account_lets_the_gateway_into_vertex(tmp_path: Path) -> None:
    body = events(
        {**CHUNK, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]},
        {**CHUNK, "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}},
    )
    async with cloud(token) as issuer, cloud(stream(body)) as peer:
        file = service_account(tmp_path, f"{issuer.url}/token")
        google = {"project": "p1", "location": "europe-west4", "credentials_file": file}
        engine = {"kind": "vertex", "google": google}
        async with gateway(peer, engine, "google/gemini-2.5-flash") as (_, client):
            chunks = [one async for one in await client.chat.completions.create(model=MODEL, messages=HI, stream=True)]
    assert chunks[0].choices[0].delta.content == "Hi"
    assert peer.paths() == ["/v1/projects/p1/locations/europe-west4/endpoints/openapi/chat/completions"]
    assert peer.seen[0].headers["authorization"] == "Bearer ya29.verified"
    assert peer.seen[0].json["model"] == "google/gemini-2.5-flash"


async def test_without_a_token_no_model_is_asked_and_the_caller_is_told_so(tmp_path: Path) -> None:
    async with cloud(answer({"error": "invalid_grant"}, 400)) as issuer, cloud(answer(DONE)) as peer:
        google = {"project": "p1", "credentials_file": service_account(tmp_path, f"{issuer.url}/token")}
        async with gateway(peer, {"kind": "vertex", "google": google}) as (_, client):
            with pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(model=MODEL, messages=HI)
    assert caught.value.status_code == 503
    assert not peer.seen


async def test_vertexes_quota_is_a_rate_limit(tmp_path: Path) -> None:
    quota = answer([{"error": {"code": 429, "message": "Resource exhausted.", "status": "RESOURCE_EXHAUSTED"}}], 429)
    async with cloud(token) as issuer, cloud(quota) as peer:
        google = {"project": "p1", "credentials_file": service_account(tmp_path, f"{issuer.url}/token")}
        async with gateway(peer, {"kind": "vertex", "google": google}) as (_, client):
            with pytest.raises(openai.RateLimitError, match="Resource exhausted"):
                await client.chat.completions.create(model=MODEL, messages=HI)


# Anthropic

ANTHROPIC = {"kind": "anthropic", "api_key": "sk-ant-ours"}
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


async def test_anthropic_answers_with_tool_calls() -> None:
    message = {
        "id": "msg_1",
        "type": "message",
        "model": "claude-x",
        "content": [{"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"location": "Paris"}}],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 5, "output_tokens": 2},
    }
    async with cloud(answer(message)) as peer, gateway(peer, ANTHROPIC, "claude-x") as (_, client):
        found = await client.chat.completions.create(model=MODEL, messages=HI, tools=[TOOL], tool_choice="required")
    choice = found.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    call = choice.message.tool_calls[0]
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"location": "Paris"}
    seen = peer.seen[0]
    assert (seen.headers["x-api-key"], seen.headers["anthropic-version"]) == ("sk-ant-ours", "2023-06-01")
    assert "authorization" not in seen.headers
    assert seen.json["tool_choice"] == {"type": "any"}
    assert (seen.json["model"], seen.json["max_tokens"]) == ("claude-x", 8192)


async def test_anthropic_streams_what_the_client_puts_together_again() -> None:
    """A06, A12."""
    async with cloud(stream(TALK)) as peer, gateway(peer, ANTHROPIC) as (server, client):
        async with client.chat.completions.stream(model=MODEL, messages=HI, tools=[TOOL]) as talk:
            final = await talk.get_final_completion()
        record = (await server.records())[0]
    message = final.choices[0].message
    assert message.content == "Okay, let's see ☔"
    assert message.tool_calls is not None
    assert [call.function.arguments for call in message.tool_calls] == ['{"location": "San Francisco"}', "{}"]
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.usage is None
    assert record["tokens_in"] == USAGE["prompt_tokens"]
    assert record["tokens_cached"] == 1000


async def test_an_error_in_anthropics_stream_is_one_in_ours() -> None:
    """A08."""
    broken = named(
        START,
        *block(0, "text", {"type": "text_delta", "text": "So"}, text="")[:2],
        event("error", error={"type": "overloaded_error", "message": "Overloaded"}),
    )
    async with cloud(stream(broken)) as peer, gateway(peer, ANTHROPIC) as (server, client):
        text = ""
        with pytest.raises(openai.APIError, match="Overloaded"):
            async for chunk in await client.chat.completions.create(model=MODEL, messages=HI, stream=True):
                text += chunk.choices[0].delta.content or ""
        assert text == "So"
        assert (await server.records())[0]["error"]


async def test_an_error_before_anthropic_says_anything_leaves_another_replica_its_chance() -> None:
    """A19, R05."""
    full = stream(named(START, event("ping"), event("error", error={"type": "overloaded_error", "message": "Full"})))
    async with cloud(full, stream(TALK)) as peer:
        config = config_of(peer.url, f"{peer.url}/other", engine=ANTHROPIC, pool={"site": "cloud"})
        async with serving(config) as server:
            found = await server.post("/v1/chat/completions", streamed())
    assert found.status_code == 200
    assert "let's see" in found.text
    assert "error" not in found.text
    assert len(peer.seen) == 2


async def test_a_peers_pings_do_not_stand_for_our_keepalive() -> None:
    """A11."""

    async def thinks(peer: Peer) -> None:
        await peer.request()
        await peer.send(stream(named(START), ends=False))
        while True:
            ping = named(event("ping"))
            await peer.send(b"%x\r\n%b\r\n" % (len(ping), ping))
            await asyncio.sleep(0.02)

    async with engine_server(thinks) as url:
        config = config_of(url, engine=ANTHROPIC, pool={"site": "cloud"}, server={"sse_keepalive_s": 0.1})
        async with serving(config) as server, server.asking(streamed()) as wire:
            await wire.read_head()
            assert [await wire.read_chunk() for _ in range(3)] == [b": keepalive\n\n"] * 3


async def test_anthropic_overloaded_before_the_first_byte_is_a_503() -> None:
    """A09, R05."""
    failure = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    async with cloud(answer(failure, 529)) as peer, gateway(peer, ANTHROPIC) as (server, client):
        for streams in (False, True):
            with pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(model=MODEL, messages=HI, stream=streams)
            assert caught.value.status_code == 503
            assert told(caught.value)["code"] == "server_is_overloaded"
        assert "failures=0" in repr(server.gateway.replicas[0].breaker)


async def test_what_anthropic_does_not_offer_is_the_callers_400() -> None:
    async with cloud(answer(DONE)) as peer, gateway(peer, ANTHROPIC) as (_, client):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model=MODEL, messages=HI, n=2)
    assert (told(caught.value)["param"], told(caught.value)["code"]) == ("n", "unsupported_parameter")
    assert not peer.seen


async def test_a_prompt_too_long_for_anthropic_is_told_as_openai_tells_it() -> None:
    failure = {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}}
    async with cloud(answer(failure, 400)) as peer, gateway(peer, ANTHROPIC) as (_, client):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model=MODEL, messages=HI)
    assert told(caught.value)["code"] == "context_length_exceeded"


async def test_who_hangs_up_on_the_gateway_frees_anthropic() -> None:
    """A01."""
    held = stream(named(START, *block(0, "text", {"type": "text_delta", "text": "So"}, text="")), ends=False)
    async with cloud(held) as peer, gateway(peer, ANTHROPIC) as (server, _):
        async with server.asking(streamed()) as wire:
            await wire.read_head()
            await wire.read_chunk()
        async with asyncio.timeout(0.25):
            await peer.hung_up.wait()


async def test_a_stream_that_anthropic_breaks_off_is_a_failure() -> None:
    """A08."""
    cut = named(START, *block(0, "text", {"type": "text_delta", "text": "So"}, text=""), ending("end_turn"))
    async with cloud(stream(cut)) as peer, gateway(peer, ANTHROPIC) as (_, client):
        with pytest.raises(openai.APIError, match="died"):
            async for _ in await client.chat.completions.create(model=MODEL, messages=HI, stream=True):
                pass


# The configuration

POOL = """
pools:
  p: {{engine: {engine}, urls: ["https://cloud.example"], site: {site}}}
deployments:
  m: {{variants: {{v: {{pools: [p]}}}}}}
"""


def findings(engine: str, site: str = "cloud") -> list[str]:
    tree = yaml.safe_load(POOL.format(engine=engine, site=site))
    return [found.message for found in check(Config.model_validate(tree))]


@pytest.mark.parametrize(
    ("engine", "found"),
    [
        ("{kind: azure, api_key: k}", []),
        ("{kind: azure, headers: {Authorization: Bearer x}}", []),
        ("{kind: azure, azure: {entra: true}}", []),
        ("{kind: azure}", ["azure without a way in"]),
        ("{kind: azure, api_key: k, azure: {entra: true}}", ["there are both `api_key` and `azure.entra`"]),
        ("{kind: azure, api_key: k, azure: {tenant_id: t}}", ["`tenant_id` is for Entra ID, which is off"]),
        (
            "{kind: azure, azure: {entra: true, client_secret: s}}",
            ["a `client_secret` needs a `tenant_id` too", "a `client_secret` needs a `client_id` too"],
        ),
        ("{kind: vertex, google: {project: p}}", []),
        ("{kind: vertex, api_key: k}", ["vertex without a project", "Vertex AI takes no `api_key`"]),
        ("{kind: vertex, google: {project: p, credentials_file: /no/such}}", ['there is no file "/no/such"']),
        ("{kind: anthropic, api_key: k}", []),
        ("{kind: anthropic}", ["anthropic without `api_key`"]),
        ("{kind: openai, anthropic: {max_tokens: 5}}", ["`anthropic` is for `kind: anthropic`, and this is openai"]),
    ],
)
def test_a_cloud_that_cannot_be_reached_so_is_found_before_the_start(engine: str, found: list[str]) -> None:
    assert findings(engine) == found


def test_a_cloud_on_premise_is_odd() -> None:
    assert findings("{kind: anthropic, api_key: k}", "on-premise") == [
        "anthropic is a cloud, and the site of its pool is on-premise"
    ]


@pytest.mark.parametrize(("kind", "module"), [("azure", "azure.identity"), ("vertex", "google.auth")])
def test_a_library_that_is_missing_is_found_before_the_start(
    kind: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(name: str) -> None:
        if name == module:
            raise ModuleNotFoundError(name)

    monkeypatch.setattr("gateway.config.cloud_checks.importlib.util.find_spec", gone)
    engine = {"azure": "{kind: azure, azure: {entra: true}}", "vertex": "{kind: vertex, google: {project: p}}"}[kind]
    assert any("needs a library that is not installed" in one for one in findings(engine))


def test_the_client_secret_is_a_secret() -> None:
    """A25."""
    engine = "{kind: azure, azure: {entra: true, tenant_id: t, client_id: c, client_secret: hush-hush}}"
    assert "hush-hush" in secrets_of(parse_config(POOL.format(engine=engine, site="cloud")))
