"""Who may do what over the admin API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway.office.rig import Office, office_running

READERS = ("admin", "viewer", "tenant-admin")
MATRIX: list[tuple[str, str, object, tuple[str, ...]]] = [
    ("GET", "/organisations", None, READERS),
    ("GET", "/organisations/acme", None, READERS),
    ("POST", "/organisations", {"name": "new"}, ("admin",)),
    ("PATCH", "/organisations/acme", {"weight": 2}, ("admin",)),
    ("GET", "/teams?organisation=acme", None, READERS),
    ("POST", "/teams?organisation=acme", {"name": "research"}, ("admin", "tenant-admin")),
    ("GET", "/service-accounts?organisation=acme", None, READERS),
    ("POST", "/service-accounts?organisation=acme", {"name": "ci"}, ("admin", "tenant-admin")),
    ("GET", "/keys", None, READERS),
    ("POST", "/keys", {"name": "k", "organisation": "acme"}, ("admin", "tenant-admin")),
    ("GET", "/audit", None, READERS),
    ("GET", "/audit.jsonl", None, READERS),
    ("GET", "/audit/verify", None, ("admin", "viewer")),
    ("GET", "/pools", None, ("admin", "operator", "viewer")),
    ("GET", "/usage", None, READERS),
    ("GET", "/config", None, ("admin", "operator", "viewer")),
    ("POST", "/config", {"text": "{}", "dry_run": True}, ("admin", "operator")),
]
ROLES = ("admin", "operator", "viewer", "tenant-admin")


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    async with office_running(f"sqlite:///{tmp_path}/headrace.db", tmp_path) as running:
        yield running


@pytest.mark.parametrize(("method", "path", "body", "allowed"), MATRIX, ids=[f"{m} {p}" for m, p, _, _ in MATRIX])
async def test_each_role_reaches_what_is_for_it_and_nothing_else(
    office: Office, method: str, path: str, body: object, allowed: tuple[str, ...]
) -> None:
    options = {} if body is None else {"json": body}
    for role in ROLES:
        answer = await office.ask(role, method, path, **options)
        if role in allowed:
            assert answer.status_code not in (401, 403, 404, 405, 500), (role, answer.text)
        else:
            assert answer.status_code == 403, (role, answer.text)
            assert answer.json()["error"]["code"] == "role_not_allowed"
            assert role in answer.json()["error"]["message"]
    for role in ("data", ""):
        answer = await office.ask(role, method, path, **options)
        assert answer.status_code == 401, (role, answer.text)


async def test_an_operator_applies_what_says_nothing_new_of_who_is_let_in(office: Office) -> None:
    """Or it could make itself an admin."""
    for role, text, status in (("operator", "{}", 200), ("operator", "auth: {salt: other}", 403)):
        answer = await office.post(role, "/config", {"text": text})
        assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == "role_not_allowed"
    assert "auth.salt" in answer.json()["error"]["message"]
    assert (await office.post("admin", "/config", {"text": "auth: {salt: other}"})).status_code == 200
    assert (await office.post("operator", "/config/rollback", {})).status_code == 200


async def test_a_key_for_model_calls_is_as_unknown_here_as_one_that_never_was(office: Office) -> None:
    """A18: never reachable with a data-plane key."""
    office.keys["made up"] = "sk-hr-000000000000-" + "x" * 43
    told = [await office.get(role, "/keys") for role in ("data", "made up")]
    assert told[0].json() == told[1].json()
    assert told[0].status_code == told[1].status_code == 401
    assert told[0].headers["www-authenticate"] == told[1].headers["www-authenticate"]


async def test_a_tenant_admin_sees_its_own_organisation_and_no_trace_of_another(office: Office) -> None:
    assert [one["name"] for one in (await office.get("tenant-admin", "/organisations")).json()["data"]] == ["acme"]
    organisations = {one["organisation"] for one in (await office.get("tenant-admin", "/keys")).json()["data"]}
    assert organisations == {"acme"}
    others = (await office.get("admin", "/keys?organisation=other")).json()["data"][0]["id"]
    told = {
        (await office.ask("tenant-admin", method, path.format(id=key_id), **options)).text.replace(key_id, "ID")
        for key_id in (others, "000000000000")
        for method, path, options in (
            ("GET", "/keys/{id}", {}),
            ("PATCH", "/keys/{id}", {"json": {"name": "mine"}}),
            ("POST", "/keys/{id}/rotate", {"json": {}}),
            ("POST", "/keys/{id}/revoke", {}),
            ("GET", "/keys?after={id}", {}),
        )
    }
    assert len(told) == 1, told
    assert "There is no key ID." in told.pop()


@pytest.mark.parametrize(
    "path",
    [
        "/organisations/other",
        "/teams?organisation=other",
        "/teams/research?organisation=other",
        "/service-accounts?organisation=other",
        "/keys?organisation=other",
        "/audit?organisation=other",
        "/audit.jsonl?organisation=other",
        "/usage?tenant=other",
    ],
)
async def test_what_is_anothers_is_not_there(office: Office, path: str) -> None:
    other, nobody = [await office.get("tenant-admin", path.replace("other", name)) for name in ("other", "nobody")]
    assert other.status_code == nobody.status_code == 404
    assert other.text.replace("other", "nobody") == nobody.text


async def test_a_tenant_admin_changes_nothing_of_another_organisation(office: Office) -> None:
    for method, path, body in (
        ("POST", "/teams?organisation=other", {"name": "t"}),
        ("PATCH", "/teams/t?organisation=other", {"disabled": True}),
        ("POST", "/service-accounts?organisation=other", {"name": "s"}),
        ("POST", "/keys", {"name": "k", "organisation": "other"}),
    ):
        answer = await office.ask("tenant-admin", method, path, json=body)
        assert answer.status_code == 404, answer.text
    entries = (await office.get("admin", "/audit")).json()["data"]
    assert {entry["actor"] for entry in entries} == {"test"}


async def test_a_tenant_admin_makes_no_key_with_a_role_and_lengthens_none(office: Office) -> None:
    body = {"name": "boss", "organisation": "acme", "role": "tenant-admin"}
    assert (await office.post("tenant-admin", "/keys", body)).status_code == 403
    made = (await office.post("admin", "/keys", body)).json()["record"]["id"]
    for answer in (
        await office.patch("tenant-admin", f"/keys/{made}", {"expires": None}),
        await office.post("tenant-admin", f"/keys/{made}/rotate", {}),
    ):
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "role_not_allowed"
    own = (await office.get("tenant-admin", "/keys?name=tenant-admin")).json()["data"][0]["id"]
    assert (await office.patch("tenant-admin", f"/keys/{own}", {"expires": None})).status_code == 403
    assert (await office.post("tenant-admin", f"/keys/{own}/rotate", {"grace_s": 60})).status_code == 201
    assert (await office.post("tenant-admin", f"/keys/{made}/revoke")).status_code == 200


async def test_r11_a_tenant_admin_sets_no_key_s_sensitivity(office: Office) -> None:
    body = {"name": "loose", "organisation": "acme", "sensitivity": "public"}
    assert (await office.post("tenant-admin", "/keys", body)).status_code == 403
    made = (await office.post("admin", "/keys", body)).json()["record"]["id"]
    answer = await office.patch("tenant-admin", f"/keys/{made}", {"sensitivity": None})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "role_not_allowed")
    same = {"sensitivity": "public", "metadata": {"ticket": "X-1"}}
    assert (await office.patch("tenant-admin", f"/keys/{made}", same)).status_code == 200
