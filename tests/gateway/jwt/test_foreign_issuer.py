"""A provider that others wrote: discovery, keys and tokens are theirs."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from gateway.errors import Unauthenticated
from tests.gateway.jwt.issuer import verifying
from tests.harness import CHAT, Json, chat, config_of, engine_running, serving


@pytest.fixture
def provider() -> Iterator[str]:
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")  # it uses what its own libraries deprecate
        import oidc_provider_mock

        people = [oidc_provider_mock.User(sub="alice", claims={"org": "acme"})]
        with oidc_provider_mock.run_server_in_thread(user_claims=people) as server:
            yield f"http://localhost:{server.server_port}"


def id_token(url: str) -> str:
    """By the authorization code flow, as a browser goes through it."""
    back = "https://app.example/callback"
    query = {"client_id": "app", "redirect_uri": back, "response_type": "code", "scope": "openid", "state": "s"}
    with httpx.Client(base_url=url, trust_env=False) as client:
        signed_in = client.post("/oauth2/authorize", params=query, data={"sub": "alice"})
        [code] = parse_qs(urlsplit(signed_in.headers["location"]).query)["code"]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": back}
        answer: Json = client.post("/oauth2/token", data=form, auth=("app", "secret")).json()
    token = answer["id_token"]
    assert isinstance(token, str)
    return token


async def test_its_tokens_are_taken(provider: str) -> None:
    entry = {"name": "foreign", "issuer": provider, "audience": ["app"], "claims": {"tenant": "org"}}
    token = await asyncio.to_thread(id_token, provider)
    async with verifying(entry) as verifier:
        caller = verifier.find(token.encode())
        assert (caller.key_name, caller.tenant) == ("foreign/alice", "acme")
    async with verifying(entry | {"audience": ["another-app"]}) as verifier:
        with pytest.raises(Unauthenticated, match="for another service"):
            verifier.find(token.encode())
    async with engine_running() as engine:
        config = config_of(engine)
        config["auth"]["jwt"] = [entry]
        async with serving(config) as server:
            answer = await server.post(CHAT, chat(), authorization=f"Bearer {token}")
            assert answer.status_code == 200
