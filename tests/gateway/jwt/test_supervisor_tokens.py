"""Tokens at both doors of a gateway as it is run: workers for model calls, the office for the admin API."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx

from tests.gateway.jwt.issuer import issuer_running
from tests.gateway.supervised import chat, client, served
from tests.harness import CHAT, Json, config_of, engine_running

ROLES = {"boss": "admin", "ops": "operator", "owner": "tenant-admin"}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("error", {}).get("code", "")


async def test_a_token_opens_the_admin_api_by_its_role_and_model_calls_without_one(
    ca_file: Path, tmp_path: Path
) -> None:
    async with issuer_running(ca_file) as issuer, engine_running() as engine:
        issuer.add()
        config: Json = config_of(engine, server={"workers": 1})
        claims = {"tenant": "org", "role": "groups"}
        people = issuer.options(name="people", audience=["admin"], claims=claims, roles=ROLES)
        config["auth"]["jwt"] = [issuer.options(), people]
        config["database"] = {"url": f"sqlite:///{tmp_path}/headrace.db"}
        config["admin"] = {"port": free_port()}
        async with served(tmp_path, config) as gateway:
            await gateway.ready()
            admin_url = f"http://127.0.0.1:{config['admin']['port']}"
            async with client(gateway.url) as calls, client(admin_url) as admin:

                def bearer(**more: object) -> dict[str, str]:
                    return {"authorization": f"Bearer {issuer.token(**more)}"}  # type: ignore[arg-type]

                boss = bearer(aud="admin", groups=["boss"], org=None, sub="bob")
                owner = bearer(aud="admin", groups=["owner"], sub="olga")
                ops = bearer(aud="admin", groups=["ops"], org=None)
                staff = bearer(aud="admin", groups=[])
                assert (await calls.post(CHAT, json=chat(), headers=bearer())).status_code == 200
                assert (await calls.post(CHAT, json=chat(), headers=staff)).status_code == 200
                for headers in (boss, owner, ops):
                    assert code(await calls.post(CHAT, json=chat(), headers=headers)) == (401, "invalid_api_key")
                for headers in (bearer(), bearer(groups=["boss"]), staff):
                    assert code(await admin.get("/organisations", headers=headers)) == (401, "invalid_api_key")
                for name in ("acme", "other"):
                    made = await admin.post("/organisations", json={"name": name}, headers=boss)
                    assert made.status_code == 201, made.text
                assert (await admin.get("/organisations/acme", headers=owner)).status_code == 200
                assert code(await admin.get("/organisations/other", headers=owner)) == (404, "not_found")
                assert code(await admin.get("/keys", headers=ops)) == (403, "role_not_allowed")
                audit = (await admin.get("/audit", headers=boss)).text
                assert "people/bob" in audit
                expired = await admin.get("/organisations", headers=bearer(aud="admin", groups=["boss"], exp=1))
                assert code(expired) == (401, "expired_token")
                disabled = await admin.patch("/organisations/acme", json={"disabled": True}, headers=boss)
                assert disabled.status_code == 200, disabled.text
                while (answer := await calls.post(CHAT, json=chat(), headers=bearer())).status_code == 200:
                    pass
                assert code(answer) == (401, "invalid_api_key")
                assert code(await admin.get("/organisations/acme", headers=owner)) == (401, "invalid_api_key")
