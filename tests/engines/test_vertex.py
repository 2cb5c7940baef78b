"""Google Vertex AI: its path, its errors, and tokens by google-auth from a token service on loopback."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

import google.auth.jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from engines.base import EngineUnreachable, Operation
from engines.http import Endpoint
from engines.tokens import BearerSigner
from engines.vertex import GoogleTokens, VertexEngine
from tests.engines.clouds import Cloud, Json, Seen, answer, asked, cloud

ASK = {"model": "google/gemini-2.5-flash", "messages": [{"role": "user", "content": "Hi"}]}
DONE = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]}
ACCOUNT = "gateway@project.iam.gserviceaccount.com"


@cache
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def service_account(folder: Path, token_uri: str) -> str:
    """A key file as the console gives it."""
    private = key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    content = {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "k1",
        "private_key": private.decode(),
        "client_email": ACCOUNT,
        "client_id": "1",
        "token_uri": token_uri,
    }
    file = folder / "account.json"
    file.write_text(json.dumps(content))
    return str(file)


def token(request: Seen) -> bytes:
    """Google's token service: the assertion has to be signed by the account's key, for Google and this scope."""
    form = parse_qs(request.body.decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    public = key().public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)
    decode = cast(Any, google.auth.jwt.decode)
    claims = decode(form["assertion"][0], certs=public, audience="https://oauth2.googleapis.com/token")
    assert claims["iss"] == ACCOUNT
    assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
    return answer({"access_token": "ya29.verified", "expires_in": 3599, "token_type": "Bearer"})


@asynccontextmanager
async def vertex(
    folder: Path, *answers: Any, tokens: Any = token, **options: Any
) -> AsyncIterator[tuple[VertexEngine, Cloud, Cloud]]:
    async with cloud(tokens) as issuer, cloud(*answers) as peer:
        source = GoogleTokens(service_account(folder, f"{issuer.url}/token"))
        signer = BearerSigner(source, "engine.google.credentials_file")
        engine = VertexEngine(Endpoint("e", peer.url), "my project", "europe-west4", signer, **options)
        try:
            yield engine, peer, issuer
        finally:
            await engine.aclose()


@pytest.fixture(autouse=True)
def no_proxy_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


async def test_a_service_account_lets_the_gateway_in(tmp_path: Path) -> None:
    async with vertex(tmp_path, answer(DONE)) as (engine, peer, issuer):
        for _ in range(3):
            assert await asked(engine, ASK) == (200, json.dumps(DONE).encode())
    assert peer.paths() == ["/v1/projects/my%20project/locations/europe-west4/endpoints/openapi/chat/completions"] * 3
    assert {seen.headers["authorization"] for seen in peer.seen} == {"Bearer ya29.verified"}
    assert peer.seen[0].json == ASK
    assert len(issuer.seen) == 1


async def test_another_version_and_an_endpoint_of_ones_own(tmp_path: Path) -> None:
    async with vertex(tmp_path, answer(DONE), api_version="v1beta1", target="12345") as (engine, peer, _):
        await asked(engine, ASK)
    assert peer.paths() == ["/v1beta1/projects/my%20project/locations/europe-west4/endpoints/12345/chat/completions"]


@pytest.mark.parametrize(
    ("body", "becomes"),
    [
        ([{"error": {"code": 429, "message": "Quota"}}], {"error": {"code": 429, "message": "Quota"}}),
        ({"error": {"code": 429, "message": "Quota"}}, {"error": {"code": 429, "message": "Quota"}}),
        ([], []),
    ],
)
async def test_an_error_in_an_array_is_taken_out_of_it(tmp_path: Path, body: object, becomes: Json) -> None:
    """A09."""
    async with vertex(tmp_path, answer(body, 429)) as (engine, _, _):
        status, told = await asked(engine, ASK)
    assert (status, json.loads(told)) == (429, becomes)


async def test_only_chat_is_offered(tmp_path: Path) -> None:
    async with vertex(tmp_path, answer(DONE)) as (engine, peer, _):
        assert (await asked(engine, ASK, Operation.EMBEDDINGS))[0] == 501
    assert not peer.seen


async def test_an_account_that_google_does_not_know_reaches_no_model(tmp_path: Path) -> None:
    def refuses(_: Seen) -> bytes:
        return answer({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, 400)

    async with vertex(tmp_path, answer(DONE), tokens=refuses) as (engine, peer, _):
        with pytest.raises(EngineUnreachable, match=r"Invalid JWT Signature.*engine\.google\.credentials_file"):
            await asked(engine, ASK)
    assert not peer.seen


async def test_any_answer_is_a_sign_of_health_but_a_servers_error(tmp_path: Path) -> None:
    async with vertex(tmp_path, answer({}, 404), answer({}, 503)) as (engine, _, _):
        assert await engine.healthy()
        assert not await engine.healthy()


async def test_without_a_key_file_the_machines_credentials_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cloud(token) as issuer, cloud(answer(DONE)) as peer:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", service_account(tmp_path, f"{issuer.url}/token"))
        source = GoogleTokens()
        engine = VertexEngine(Endpoint("e", peer.url), "p", "global", BearerSigner(source, "engine.google"))
        assert (await asked(engine, ASK))[0] == 200
        await engine.aclose()
    assert peer.seen[0].headers["authorization"] == "Bearer ya29.verified"


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "google.auth.transport.requests", None)
    with pytest.raises(ImportError, match=r"headrace\[google\]"):
        GoogleTokens()
