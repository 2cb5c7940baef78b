"""Usage by the admin API: a tenant-admin sees its own organisation alone."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from gateway.api.answers import answer_errors
from gateway.directory.roles import Role
from gateway.office.api import usage
from gateway.office.api.access import Actor
from gateway.office.api.state import OfficeState
from gateway.office.desk import Desk, Opener
from gateway.record import Record
from gateway.usage.store import store
from tests.gateway.usage.calls import call, kept


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[FastAPI]:
    opener = Opener(f"sqlite:///{tmp_path}/db")
    desk = Desk(opener, "test")

    def fill() -> None:
        records = [kept(call(number, tenant="acme" if number else "beta"), f"{number}") for number in range(3)]
        with opener.get().write() as connection:
            store(connection, records)

    await asyncio.to_thread(fill)
    made = FastAPI()
    answer_errors(made)
    needed = (field for field in dataclasses.fields(OfficeState) if field.default is dataclasses.MISSING)
    others: dict[str, Any] = {field.name: None for field in needed}
    usage.add_routes(made, OfficeState(**others | {"desk": desk}))
    yield made
    await asyncio.to_thread(desk.close, wait=True)
    await asyncio.to_thread(opener.close)


async def get(api: FastAPI, path: str, role: Role = Role.ADMIN, organisation: str = "acme") -> httpx.Response:
    async def through_the_gate(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scope["actor"] = Actor("key", role, organisation, "", "127.0.0.1", "r")
        scope["record"] = Record("r", 0.0)
        await api(scope, receive, send)

    transport = httpx.ASGITransport(app=cast(Any, through_the_gate))
    async with httpx.AsyncClient(transport=transport, base_url="http://office") as client:
        return await client.get(path)


async def test_usage_is_told_in_json_and_csv(api: FastAPI) -> None:
    found = (await get(api, "/usage?by=tenant&from=2026-11-22&to=2026-11-22")).json()
    assert [(line["tenant"], line["calls"], line["usd"]) for line in found["lines"]] == [
        ("acme", 2, "0.0007"),
        ("beta", 1, "0.00035"),
    ]
    assert found["total"]["calls"] == 3 and "team" not in found["total"]
    answer = await get(api, "/usage.csv?by=tenant")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.text.splitlines()[1].startswith("acme,2,")


async def test_a_tenant_admin_sees_its_own_organisation_alone(api: FastAPI) -> None:
    found = (await get(api, "/usage?by=tenant", Role.TENANT_ADMIN)).json()
    assert [line["tenant"] for line in found["lines"]] == ["acme"] and found["total"]["calls"] == 2
    assert (await get(api, "/usage?tenant=beta", Role.TENANT_ADMIN)).status_code == 404
    assert (await get(api, "/usage.csv?tenant=beta", Role.TENANT_ADMIN)).status_code == 404
    assert (await get(api, "/usage/calls?request_id=req_0", Role.TENANT_ADMIN)).json() == {"calls": []}
    assert len((await get(api, "/usage/calls?request_id=req_0")).json()["calls"]) == 1


@pytest.mark.parametrize("path", ["/usage", "/usage.csv", "/usage/calls?request_id=x"])
async def test_operators_see_no_usage_and_viewers_do(api: FastAPI, path: str) -> None:
    assert (await get(api, path, Role.OPERATOR)).status_code == 403
    assert (await get(api, path, Role.VIEWER)).status_code == 200


@pytest.mark.parametrize(
    "query", ["by=week", "from=yesterday", "to=2026-13-01", f"tenant={'x' * 200}", "by=" + "day," * 100]
)
async def test_wrong_parameters_are_400(api: FastAPI, query: str) -> None:
    answer = await get(api, f"/usage?{query}")
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


async def test_names_are_compared_and_never_read(api: FastAPI) -> None:
    found = (await get(api, "/usage?tenant=acme'%20OR%201=1--")).json()
    assert found["total"]["calls"] == 0
