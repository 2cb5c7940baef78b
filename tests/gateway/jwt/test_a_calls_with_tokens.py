"""Model calls with tokens, through the whole gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.jwt.issuer import Issuer, issuer_running
from tests.harness import CHAT, Json, Server, chat, config_of, engine_by_hand, engine_running, serving, settled, whole


def with_tokens(config: Json, *entries: Json) -> Json:
    config["auth"]["jwt"] = list(entries)
    return config


async def ask(server: Server, token: str) -> httpx.Response:
    return await server.post(CHAT, chat(), authorization=f"Bearer {token}")


async def test_a_call_with_a_token_is_answered_and_charged_to_its_tenant(ca_file: Path) -> None:
    async with issuer_running(ca_file) as issuer, engine_running() as engine:
        issuer.add()
        async with serving(with_tokens(config_of(engine), issuer.options())) as server:
            assert (await ask(server, issuer.token())).status_code == 200
            models = await server.get("/v1/models", authorization=f"Bearer {issuer.token()}")
            assert [one["id"] for one in models.json()["data"]] == ["m"]
            record, _ = await server.records(2)
            assert (record["tenant"], record["key"]) == ("acme", "sso/alice")
            metrics = await server.metrics()
            assert metrics['headrace_issuer_keys_age_seconds{issuer="sso"}'] < 60


async def test_with_an_issuer_and_no_keys_nobody_else_is_let_in(ca_file: Path) -> None:
    async with issuer_running(ca_file) as issuer, engine_running() as engine:
        issuer.add()
        async with serving(with_tokens(config_of(engine), issuer.options())) as server:
            nothing = await server.post(CHAT, chat())
            assert (nothing.status_code, nothing.json()["error"]["code"]) == (401, "missing_api_key")
            key = await ask(server, "sk-guess")
            assert (key.status_code, key.json()["error"]["code"]) == (401, "invalid_api_key")
            for path in ("/v1/models", "/admin/pools"):
                assert (await server.get(path)).status_code == 401
            assert engine.stats.requests == 0


async def test_keys_go_on_beside_tokens_also_one_with_two_dots(ca_file: Path) -> None:
    async with issuer_running(ca_file) as issuer, engine_running() as engine:
        issuer.add()
        keys = [{"name": "k", "key": "sk-plain"}, {"name": "dots", "key": "a.b.c"}]
        async with serving(with_tokens(config_of(engine, keys=keys), issuer.options())) as server:
            for key in ("sk-plain", "a.b.c", issuer.token()):
                assert (await ask(server, key)).status_code == 200
            assert (await ask(server, "a.b.d")).json()["error"]["code"] == "invalid_token"


async def test_a_refusal_says_what_rfc_6750_asks_for(ca_file: Path) -> None:
    async with issuer_running(ca_file) as issuer, engine_running() as engine:
        issuer.add()
        async with serving(with_tokens(config_of(engine), issuer.options())) as server:
            expired = await ask(server, issuer.token(exp=1000))
            assert expired.status_code == 401
            assert expired.json()["error"]["code"] == "expired_token"
            assert expired.headers["www-authenticate"] == (
                'Bearer realm="headrace", error="invalid_token", error_description="The token expired"'
            )
            for token in (issuer.token(org=None), issuer.token(aud="other"), issuer.token()[:-8] + "AAAAAAAA"):
                refused = await ask(server, token)
                assert refused.headers["www-authenticate"] == 'Bearer realm="headrace", error="invalid_token"'
                assert refused.json()["error"]["type"] == "authentication_error"
            assert engine.stats.requests == 0


async def test_a_token_may_call_what_its_claims_say(ca_file: Path) -> None:
    async with issuer_running(ca_file) as issuer, engine_running() as engine:
        issuer.add()
        entry = issuer.options(claims={"tenant": "org", "deployments": "models"})
        async with serving(with_tokens(config_of(engine), entry)) as server:
            assert (await ask(server, issuer.token(models=["m"]))).status_code == 200
            assert (await ask(server, issuer.token(models="n m"))).status_code == 200
            other = await ask(server, issuer.token(models=["n"]))
            assert (other.status_code, other.json()["error"]["code"]) == (403, "model_not_allowed")


async def test_a_token_with_a_role_calls_no_model(ca_file: Path) -> None:
    """As an unknown one: the admin API alone knows it."""
    async with issuer_running(ca_file) as issuer, engine_running() as engine:
        issuer.add()
        entry = issuer.options(claims={"tenant": "org", "role": "groups"}, roles={"boss": "admin"})
        async with serving(with_tokens(config_of(engine), entry)) as server:
            assert (await ask(server, issuer.token(groups=["staff"]))).status_code == 200
            assert (await ask(server, issuer.token(groups=["boss"]))).status_code == 401
            assert engine.stats.requests == 1


async def test_the_first_call_with_a_new_key_waits_for_it(ca_file: Path) -> None:
    """Rotation from one moment to the next costs nobody a refusal."""
    async with issuer_running(ca_file) as issuer, engine_running() as engine:
        issuer.add()
        async with serving(with_tokens(config_of(engine), issuer.options())) as server:
            issuer.add("two", "EdDSA")
            answers = await asyncio.gather(
                *(ask(server, issuer.token("two", "EdDSA", sub=str(number))) for number in range(20))
            )
            assert {answer.status_code for answer in answers} == {200}
            assert issuer.fetches == 2
            assert (await server.get("/v1/models", authorization="Bearer a.b.c")).status_code == 401


async def test_a_client_that_hangs_up_while_a_key_is_fetched_leaves_nothing_behind(ca_file: Path) -> None:
    """A01"""
    async with issuer_running(ca_file) as issuer, engine_running() as engine:
        issuer.add()
        async with serving(with_tokens(config_of(engine), issuer.options())) as server:
            issuer.held.clear()
            asked = len(issuer.paths)
            token = issuer.token("two")
            async with server.asking(chat(), authorization=f"Bearer {token}") as wire:
                await settled(lambda: None if len(issuer.paths) > asked else "no", "the issuer was not asked")
                wire.reset()
            await settled(lambda: list(server.gateway.server.open) or None, "the connection stays")
            issuer.held.set()
            assert (await ask(server, issuer.token())).status_code == 200


async def test_without_any_keys_of_the_issuer_the_answer_is_503_and_keys_go_on(ca_file: Path) -> None:
    async with issuer_running(ca_file) as issuer, engine_running() as engine:
        issuer.answers["/.well-known/openid-configuration"] = whole(b"", "500 Broken")
        keys = [{"name": "k", "key": "sk-plain"}]
        async with serving(with_tokens(config_of(engine, keys=keys), issuer.options())) as server:
            answer = await ask(server, issuer.token())
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "issuer_unavailable")
            assert "retry-after" in answer.headers
            assert (await ask(server, "sk-plain")).status_code == 200


async def test_a_gateway_that_starts_while_the_issuer_is_away_takes_its_tokens(ca_file: Path) -> None:
    async with issuer_running(ca_file) as issuer, engine_running() as engine:
        issuer.add()
        config = with_tokens(config_of(engine), issuer.options())
        async with serving(config) as server:
            assert (await ask(server, issuer.token())).status_code == 200
        issuer.answers["/.well-known/openid-configuration"] = whole(b"", "500 Broken")
        async with serving(config) as server:
            assert (await ask(server, issuer.token())).status_code == 200


async def test_a_token_never_reaches_engine_or_log(ca_file: Path) -> None:
    """A24, A25"""
    async with issuer_running(ca_file) as issuer, engine_by_hand() as engine:
        issuer.add()
        async with serving(with_tokens(config_of(engine.url), issuer.options())) as server:
            good, bad = issuer.token(), issuer.token(aud="other")
            async with server.asking(chat(), authorization=f"Bearer {good}") as wire:
                turn = await engine.turn()
                assert "authorization" not in turn.head.lower()
                assert good.rpartition(".")[2] not in turn.head
                turn.send(whole(b'{"choices": [{"message": {"content": "x"}}]}'))
                await wire.answer()
            assert (await ask(server, bad)).status_code == 401
            await server.records(2)
            log = server.log.read_text()
            for token in (good, bad):
                assert not any(part in log for part in token.split(".")[1:])


visible = st.characters(min_codepoint=0x21, max_codepoint=0x7E)


@pytest.mark.parametrize("size", [17_000, 50_000])
async def test_a_token_that_is_too_long_is_refused(size: int, ca_file: Path) -> None:
    async with issuer_running(ca_file) as issuer, engine_running() as engine:
        issuer.add()
        async with serving(with_tokens(config_of(engine), issuer.options())) as server:
            assert (await ask(server, issuer.token(pad="x" * (size * 3 // 4)))).status_code == 401


async def test_no_header_makes_the_gateway_fail(ca_file: Path) -> None:
    async with issuer_running(ca_file) as issuer, engine_running() as engine:
        issuer.add()
        async with serving(with_tokens(config_of(engine), issuer.options())) as server, server.client() as client:
            await sweep(issuer, client)
            assert engine.stats.requests == 0


async def sweep(issuer: Issuer, client: httpx.AsyncClient) -> None:
    tokens: list[str] = []

    @settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(st.lists(st.text(visible, max_size=40), min_size=3, max_size=4).map(".".join))
    def draw(token: str) -> None:
        tokens.append(token)

    draw()
    head, payload, _ = issuer.token().split(".")
    tokens += [f"{head}.{payload}.{token.replace('.', '')}" for token in tokens[:50]]
    for token in tokens:
        answer = await client.post(CHAT, json=chat(), headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 401, token
