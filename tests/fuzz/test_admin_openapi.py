"""What the admin API's OpenAPI document promises, held against the real server by schemathesis."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok

from tests.fuzz.exchange import is_error
from tests.gateway.office.rig import Office, office_running

HELD = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


def hammer(office: Office, key_id: str, examples: int) -> dict[int, int]:
    """Call every operation with requests that the document allows, and others; returns how often each status came."""
    load_all_checks()
    checks = [CHECKS.get_one(name) for name in HELD]
    headers = {"authorization": f"Bearer {office.keys['admin']}"}
    statuses: dict[int, int] = {}
    with requests.Session() as session:
        session.trust_env = False

        def attempt(case: Any) -> None:
            if re.fullmatch(r"[0-9a-f]{12}", str(case.path_parameters.get("key_id", ""))):
                case.path_parameters["key_id"] = key_id
            response = case.call(session=session, headers=headers, timeout=10)
            case.validate_response(response, checks=checks, headers=headers)
            assert response.status_code < 400 or case.method == "HEAD" or is_error(response.content)
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1

        for operation in _operations(office):
            for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
                _run(operation, mode, attempt, examples)
    return statuses


def _operations(office: Office) -> Iterator[Any]:
    config = SchemathesisConfig.from_dict({"generation": {"mode": "all", "with-security-parameters": False}})
    schema = schemathesis.openapi.from_url(f"{office.url}/openapi.json", config=config)
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        yield found.ok()


def _run(operation: Any, mode: GenerationMode, attempt: Any, examples: int) -> None:
    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    test = settings(hypothesis.given(case=operation.as_strategy(generation_mode=mode))(attempt))
    try:
        test()
    except hypothesis.errors.Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # an operation without inputs has no wrong ones


async def hammered(folder: Path, examples: int) -> dict[int, int]:
    admin = {"requests_per_second": 1e6}
    async with office_running(f"sqlite:///{folder}/headrace.db", folder, admin) as office:
        made = await office.post("admin", "/keys", {"name": "fuzzed", "organisation": "acme"})
        return await asyncio.to_thread(hammer, office, made.json()["record"]["id"], examples)


async def test_the_admin_api_keeps_what_its_openapi_document_promises(tmp_path: Path) -> None:
    statuses = await hammered(tmp_path, 5)
    assert {200, 201, 400, 404} <= set(statuses)


@pytest.mark.e2e
def test_the_admin_api_keeps_what_its_openapi_document_promises_in_a_long_run(tmp_path: Path) -> None:
    statuses = asyncio.run(hammered(tmp_path, 60))
    assert sum(statuses.values()) > 1000
