"""What the admin API lets in: from no other page, not too often, and nothing but well-formed JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.office.api.gate import MAX_CALLERS, Rates
from tests.gateway.office.rig import Office, office_running

DEEP = b'{"name":"k","metadata":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    async with office_running(f"sqlite:///{tmp_path}/headrace.db", tmp_path) as running:
        yield running


async def test_every_answer_is_kept_nowhere_and_guessed_at_by_nobody(office: Office) -> None:
    for path in ("/keys", "/docs", "/openapi.json", "/health/live", "/nothing"):
        for role in ("admin", ""):
            headers = (await office.get(role, path)).headers
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert "set-cookie" not in headers


async def test_the_document_is_open_and_names_every_route_with_its_refusals(office: Office) -> None:
    document = (await office.get("", "/openapi.json")).json()
    assert document["paths"]["/keys"]["post"]["security"] == [{"key": []}]
    assert document["paths"]["/health/live"]["get"]["security"] == []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], (method, path)
            assert {"401", "403", "429"} <= set(operation["responses"]), (method, path)
            assert "422" not in operation["responses"]
    text = json.dumps(document)
    for name in (part.split('"')[0] for part in text.split("#/components/schemas/")[1:]):
        assert name in document["components"]["schemas"]
    page = await office.get("", "/docs")
    assert "/keys/{key_id}/rotate" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")


async def test_a_page_of_another_origin_is_refused_even_with_a_key(office: Office) -> None:
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{office.port}"):
        answer = await office.post("admin", "/organisations", {"name": "x"}, headers={"origin": origin})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in answer.headers
    preflight = await office.ask(
        "", "OPTIONS", "/keys", headers={"origin": "https://evil.example", "access-control-request-method": "POST"}
    )
    assert preflight.status_code == 403


async def test_an_origin_that_is_allowed_may_ask_and_read(tmp_path: Path) -> None:
    admin = {"origins": ["https://console.example"]}
    async with office_running(f"sqlite:///{tmp_path}/headrace.db", tmp_path, admin) as office:
        headers = {"origin": "https://console.example"}
        preflight = await office.ask(
            "", "OPTIONS", "/keys/x", headers=headers | {"access-control-request-method": "PATCH"}
        )
        assert preflight.status_code == 200
        assert "PATCH" in preflight.headers["access-control-allow-methods"]
        answer = await office.get("admin", "/keys", headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://console.example"
        other = {"origin": "https://evil.example", "access-control-request-method": "PATCH"}
        assert (await office.ask("", "OPTIONS", "/keys", headers=other)).status_code == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_a_body_that_a_form_could_send_is_refused(office: Office, kind: str) -> None:
    answer = await office.ask(
        "admin", "POST", "/organisations", content=b'{"name":"x"}', headers={"content-type": kind}
    )
    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "unsupported_media_type"


async def test_one_key_is_held_to_its_rate_and_others_are_not(tmp_path: Path) -> None:
    async with office_running(f"sqlite:///{tmp_path}/headrace.db", tmp_path, {"requests_per_second": 2}) as office:
        answers = [await office.get("viewer", "/organisations") for _ in range(6)]
        over = [answer for answer in answers if answer.status_code == 429]
        assert len(over) >= 2
        assert over[0].json()["error"]["code"] == "admin_rate_limit"
        assert int(over[0].headers["retry-after-ms"]) <= 500
        assert (await office.get("admin", "/organisations")).status_code == 200
        unknown = [(await office.get("", "/keys")).status_code for _ in range(6)]
        assert set(unknown) == {401, 429}


def test_rates_are_known_of_a_bounded_number_of_callers() -> None:
    now_s = 0.0
    rates = Rates(2.0, lambda: now_s)
    assert [rates.spend("a") for _ in range(4)] == [0.0, 0.0, 0.5, 0.5]
    now_s = 0.5
    assert [rates.spend("a") for _ in range(2)] == [0.0, 0.5]
    for index in range(MAX_CALLERS):
        rates.spend(str(index))
    assert rates.spend("a") == 0.0  # forgotten, and so new


def test_less_than_one_a_second_is_a_rate_as_well() -> None:
    rates = Rates(0.1, lambda: 0.0)
    assert rates.spend("a") == 0.0
    assert rates.spend("a") == pytest.approx(10.0)


HOSTILE_BODIES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "not an object": b"[]",
    "nested without end": DEEP,
    "not UTF-8": b'{"name":"\xff"}',
    "half a surrogate": b'{"name":"\\ud800"}',
    "a NUL": b'{"name":"a\\u0000b"}',
    "a look-alike": '{"name":"аcme"}'.encode(),  # noqa: RUF001 - a Cyrillic letter
    "right to left": '{"name":"a\u202eb"}'.encode(),
    "zero width": '{"name":"a\u200bb"}'.encode(),
    "SQL": b'{"name":"x\'; DROP TABLE keys; --"}',
    "a header": b'{"name":"x\\r\\nset-cookie: a=b"}',
    "not a number": b'{"name":"x","weight":NaN}',
    "without end": b'{"name":"x","weight":1e999}',
    "a long name": b'{"name":"' + b"x" * 200 + b'"}',
    "an unknown setting": b'{"name":"x","is_admin":true}',
    "too much metadata": json.dumps({"name": "x", "metadata": {f"m{i}": "v" * 500 for i in range(20)}}).encode(),
}


@pytest.mark.parametrize("body", HOSTILE_BODIES.values(), ids=HOSTILE_BODIES.keys())
async def test_a_hostile_body_gets_a_clear_refusal_and_changes_nothing(office: Office, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = await office.ask("admin", "POST", "/organisations", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["message"] and error["type"] == "invalid_request_error"
    assert len(answer.content) < 1000
    assert [one["name"] for one in (await office.get("admin", "/organisations")).json()["data"]] == ["acme", "other"]


async def test_a_body_over_the_bound_is_not_read(office: Office) -> None:
    answer = await office.ask(
        "admin",
        "POST",
        "/organisations",
        content=b" " * (8 * 1024 * 1024 + 1),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "path",
    [
        "/keys/../../etc/passwd",
        "/keys/%2e%2e%2forganisations",
        "/keys/' OR 1=1 --",
        "/keys/%00",
        "/organisations/..%2f..%2fetc%2fpasswd",
        "/organisations/%00",
        "/organisations/a%0d%0aset-cookie:%20a=b",
        "/organisations/%ff%fe",
        "/organisations/acme%E2%80%AE",
        "/organisations/" + "x" * 500,
        "/organisations/%D0%B0cme",
        "/teams/x?organisation=%00",
        "/teams/x?organisation=acme'--",
        "/keys?organisation=%22",
        "/keys?role=root",
        "/keys?limit=-1",
        "/keys?limit=99999999999999999999",
        "/keys?after='",
        "/audit?before=1e9",
        "/audit?subject=%00",
        "/audit?from=yesterday",
        "//keys",
        "/keys/",
        "/admin/keys",
    ],
)
async def test_a_hostile_path_or_query_gets_a_clear_refusal(office: Office, path: str) -> None:
    answer = await office.get("admin", path)
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["message"]
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"])
async def test_a_method_that_a_path_does_not_have_is_refused(office: Office, method: str) -> None:
    answer = await office.ask("admin", method, "/audit")
    assert answer.status_code == 405
