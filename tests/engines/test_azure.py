"""Azure OpenAI: both paths, a key or Entra ID, and what its answers have of their own."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from engines.azure import AzureEngine, EntraTokens, entra_credential
from engines.base import EngineError, EngineRequest, EngineTimeout, EngineUnreachable, Operation, Timeouts
from engines.http import Endpoint
from engines.tokens import BearerSigner, Token
from tests.engines.clouds import LIMITS, Cloud, Seen, answer, asked, certificate, cloud, events, stream

ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
DONE = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]}
CLASSIC = "2024-10-21"


@asynccontextmanager
async def azure(
    *answers: Any, api_version: str | None = None, signer: BearerSigner | None = None, path: str = ""
) -> AsyncIterator[tuple[AzureEngine, Cloud]]:
    async with cloud(*answers) as peer:
        headers = {} if signer else {"api-key": "secret"}
        engine = AzureEngine(Endpoint("e", peer.url + path, headers), api_version, signer)
        try:
            yield engine, peer
        finally:
            await engine.aclose()


@pytest.mark.parametrize(
    ("api_version", "operation", "path"),
    [
        (None, Operation.CHAT, "/openai/v1/chat/completions"),
        (None, Operation.COMPLETIONS, "/openai/v1/completions"),
        (None, Operation.EMBEDDINGS, "/openai/v1/embeddings"),
        ("preview", Operation.CHAT, "/openai/v1/chat/completions?api-version=preview"),
        (CLASSIC, Operation.CHAT, "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"),
        (CLASSIC, Operation.EMBEDDINGS, "/openai/deployments/gpt-4o/embeddings?api-version=2024-10-21"),
    ],
)
async def test_requests_go_to_the_path_of_the_api_version(
    api_version: str | None, operation: Operation, path: str
) -> None:
    async with azure(answer(DONE), api_version=api_version) as (engine, peer):
        for _ in range(2):
            assert (await asked(engine, ASK, operation))[0] == 200
    assert peer.paths() == [path, path]
    assert peer.seen[0].headers["api-key"] == "secret"
    assert "authorization" not in peer.seen[0].headers
    assert peer.seen[0].json == ASK


@pytest.mark.parametrize("path", ["", "/openai", "/openai/"])
async def test_an_endpoint_as_the_portal_shows_it_is_understood(path: str) -> None:
    async with azure(answer(DONE), path=path) as (engine, peer):
        await asked(engine, ASK)
    assert peer.paths() == ["/openai/v1/chat/completions"]


async def test_a_deployments_name_is_quoted() -> None:
    async with azure(answer(DONE), api_version=CLASSIC) as (engine, peer):
        await asked(engine, {**ASK, "model": "a b/c?"})
    assert peer.paths() == ["/openai/deployments/a%20b%2Fc%3F/chat/completions?api-version=2024-10-21"]


@pytest.mark.parametrize("api_version", [None, CLASSIC])
async def test_what_azure_does_not_offer_is_said_so_without_asking(api_version: str | None) -> None:
    async with azure(answer(DONE), api_version=api_version) as (engine, peer):
        status, body = await asked(engine, ASK, Operation.TOKENIZE)
    assert (status, json.loads(body)["error"]["code"]) == (501, "unsupported_operation")
    assert not peer.seen


async def test_filter_results_in_a_stream_pass_as_they_are() -> None:
    body = events(
        {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": [{}]},
        {"id": "c", "choices": [{"index": 0, "delta": {"content": "Hi"}, "content_filter_results": {}}]},
    )
    async with azure(stream(body)) as (engine, _):
        assert await asked(engine, {**ASK, "stream": True}) == (200, body)


async def test_errors_keep_their_status_headers_and_words() -> None:
    """A09."""
    failure = {
        "error": {
            "message": "The response was filtered due to the prompt triggering the content management policy.",
            "type": None,
            "param": "prompt",
            "code": "content_filter",
            "status": 400,
            "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
        }
    }
    async with azure(answer(failure, 400, retry_after_ms="1500")) as (engine, _):
        response = await engine.send(EngineRequest(Operation.CHAT, json.dumps(ASK).encode()), LIMITS)
        assert json.loads(await response.read(1 << 20)) == failure
    assert response.status == 400
    assert response.headers[b"retry-after-ms"] == b"1500"


async def test_a_deployment_that_does_not_exist_is_a_wrong_model() -> None:
    missing = {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}}
    other = {"error": {"code": "404", "message": "Resource not found"}}
    page = b"<html>"
    async with azure(answer(missing, 404), answer(other, 404), answer(page, 404), api_version=CLASSIC) as (engine, _):
        status, body = await asked(engine, ASK)
        assert (status, json.loads(body)["error"]["message"]) == (
            404,
            "the model 'gpt-4o' is no deployment here: The API deployment does not exist.",
        )
        assert json.loads((await asked(engine, ASK))[1]) == other
        assert (await asked(engine, ASK))[1] == page


@pytest.mark.parametrize(
    ("api_version", "path"), [(None, "/openai/v1/models"), (CLASSIC, "/openai/models?api-version=2024-10-21")]
)
async def test_health_is_the_list_of_models(api_version: str | None, path: str) -> None:
    async with azure(answer({"data": []}), answer({}, 401), api_version=api_version) as (engine, peer):
        assert await engine.healthy()
        assert not await engine.healthy()
    assert peer.seen[0].line == f"GET {path} HTTP/1.1"
    assert peer.seen[0].headers["api-key"] == "secret"
    assert not await engine.healthy()


# Entra ID

TENANT = "11111111-2222-3333-4444-555555555555"


def entra(request: Seen) -> bytes:
    """A tenant's authority: its metadata, and tokens for the one secret."""
    if request.line.startswith("GET"):
        host = f"https://{request.headers['host']}/{TENANT}"
        return answer(
            {
                "authorization_endpoint": f"{host}/oauth2/v2.0/authorize",
                "token_endpoint": f"{host}/oauth2/v2.0/token",
                "issuer": f"{host}/v2.0",
            }
        )
    form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
    if form["client_secret"] != "right":
        return answer({"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret."}, 401)
    return answer({"token_type": "Bearer", "expires_in": 3599, "access_token": f"for {form['scope']}"})


@asynccontextmanager
async def authority(folder: Path) -> AsyncIterator[tuple[Cloud, str]]:
    file, context = await asyncio.to_thread(certificate, folder)
    async with cloud(entra, tls=context) as peer:
        yield peer, str(file)


@pytest.fixture(autouse=True)
def no_proxy_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


async def test_a_service_principal_gets_its_token_from_its_tenant(tmp_path: Path) -> None:
    """By azure-identity itself, over TLS."""
    async with authority(tmp_path) as (tenant, ca_file):
        credential = await asyncio.to_thread(entra_credential, TENANT, "app", "right", tenant.url, ca_file)
        signer = BearerSigner(EntraTokens(credential), "engine.azure")
        async with azure(answer(DONE), signer=signer) as (engine, peer):
            for _ in range(3):
                assert (await asked(engine, ASK))[0] == 200
    assert {seen.headers["authorization"] for seen in peer.seen} == {
        "Bearer for https://cognitiveservices.azure.com/.default"
    }
    assert [seen.line.split(" ")[0] for seen in tenant.seen] == ["GET", "POST"]


async def test_a_wrong_secret_reaches_no_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "azure.identity")  # a record kept would keep the error's connection
    async with authority(tmp_path) as (tenant, ca_file):
        credential = await asyncio.to_thread(entra_credential, TENANT, "app", "wrong", tenant.url, ca_file)
        signer = BearerSigner(EntraTokens(credential), "engine.azure")
        async with azure(answer(DONE), signer=signer) as (engine, peer):
            with pytest.raises(EngineUnreachable, match="AADSTS7000215"):
                await asked(engine, ASK)
            assert not await engine.healthy()
    assert not peer.seen
    del credential, signer, engine
    gc.collect()  # azure-core's error and the response that it tells of hold each other, and a connection


def test_without_a_secret_the_machines_own_identity_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.identity import DefaultAzureCredential

    for client_id in (None, "identity"):
        credential = entra_credential(None, client_id, None)
        assert isinstance(credential, DefaultAzureCredential)
        credential.close()


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "azure.identity", None)
    with pytest.raises(ImportError, match=r"headrace\[azure\]"):
        entra_credential(None, None, None)


class Numbered:
    """A source of tokens t1, t2, …; `gate` holds it up."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.count = 0
        self._gate = gate

    def fetch(self) -> Token:
        if self._gate is not None:
            self._gate.wait(10)
        self.count += 1
        return Token(f"t{self.count}", 3600)

    def close(self) -> None:
        pass


def expired(signer: BearerSigner) -> None:
    """As if the token had been fetched an hour ago."""
    signer._fetched_s = time.monotonic() - 3600


async def test_a_token_that_is_refused_is_replaced_once() -> None:
    signer = BearerSigner(Numbered(), "engine.azure")
    refused = answer({"error": {"message": "expired"}}, 401)
    async with azure(answer(DONE), refused, answer(DONE), refused, signer=signer) as (engine, peer):
        await asked(engine, ASK)
        expired(signer)
        assert (await asked(engine, ASK))[0] == 200
        assert (await asked(engine, ASK))[0] == 401
    tokens = [seen.headers["authorization"] for seen in peer.seen]
    assert tokens == ["Bearer t1", "Bearer t1", "Bearer t2", "Bearer t2"]


async def test_a_slow_token_service_counts_against_the_time_to_connect() -> None:
    """A10."""
    gate = threading.Event()
    signer = BearerSigner(Numbered(gate), "engine.azure")
    async with azure(answer(DONE), signer=signer) as (engine, _):
        began_s = time.monotonic()
        with pytest.raises(EngineTimeout) as caught:
            await engine.send(EngineRequest(Operation.CHAT, b"{}"), Timeouts(connect_s=0.2))
        assert time.monotonic() - began_s < 0.3
        gate.set()
    assert (caught.value.phase, caught.value.limit_s, caught.value.sent) == ("connect", 0.2, False)


async def test_time_spent_on_a_token_is_gone_from_the_total() -> None:
    gate = threading.Event()
    signer = BearerSigner(Numbered(gate), "engine.azure")
    async with azure(b"", signer=signer) as (engine, _):
        asyncio.get_running_loop().call_later(0.2, gate.set)
        began_s = time.monotonic()
        with pytest.raises(EngineError, match="total timeout"):
            await engine.send(EngineRequest(Operation.CHAT, b"{}"), Timeouts(connect_s=5, total_s=0.5))
        assert 0.45 < time.monotonic() - began_s < 0.6
