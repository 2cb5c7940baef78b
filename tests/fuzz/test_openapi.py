"""What our own OpenAPI document promises, held against the real server by schemathesis."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
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
from tests.harness import MODEL, Json, Server, config_of, engine_running, serving

KEY = "sk-fuzz"
HELD = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
"""Not held: that what the document does not allow is refused. The body is the engine's to judge."""


def operations(server: Server) -> Iterator[Any]:
    config = SchemathesisConfig.from_dict({"generation": {"mode": "all", "with-security-parameters": False}})
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=config)
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        yield found.ok()


def hammer(server: Server, examples: int, path: str | None) -> dict[int, int]:
    """Call every operation, or those at `path`, with `examples` requests that the document allows, and others.

    Returns how often each status was answered.
    """
    load_all_checks()
    checks = [CHECKS.get_one(name) for name in HELD]
    statuses: dict[int, int] = {}
    with requests.Session() as session:
        session.trust_env = False

        def attempt(case: Any) -> None:
            if isinstance(case.body, dict) and case.body.get("model"):
                case.body["model"] = MODEL  # or next to nothing would get past the gateway
                case.body.pop("dimensions", None)  # the fake engine makes as many as it is asked for
            response = case.call(session=session, headers={"authorization": f"Bearer {KEY}"}, timeout=10)
            case.validate_response(response, checks=checks, headers={"authorization": f"Bearer {KEY}"})
            assert response.status_code < 400 or case.method == "HEAD" or is_error(response.content)
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1

        for operation in operations(server):
            if path not in (None, operation.path):
                continue
            for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
                _run(operation, mode, attempt, examples)
    return statuses


def _run(operation: Any, mode: GenerationMode, attempt: Any, examples: int) -> None:
    strategy = operation.as_strategy(generation_mode=mode)
    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    test = settings(hypothesis.given(case=strategy)(attempt))
    try:
        test()
    except hypothesis.errors.Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # an operation without inputs has no wrong ones


async def hammered(examples: int, path: str | None = None) -> dict[int, int]:
    keys = [{"name": "fuzz", "key": KEY}]
    async with engine_running(output_tokens=1) as engine, serving(config_of(engine, keys=keys)) as server:
        return await asyncio.to_thread(hammer, server, examples, path)


async def test_the_server_keeps_what_its_openapi_document_promises() -> None:
    statuses = await hammered(25)
    assert {200, 400, 404} <= set(statuses)


@pytest.mark.e2e
@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize", "/v1/models/{model}"],
)
async def test_the_server_keeps_what_its_openapi_document_promises_in_a_long_run(path: str) -> None:
    statuses = await hammered(400, path)
    assert sum(statuses.values()) > 200


async def test_every_operation_that_needs_a_key_says_so_and_refuses_without_one() -> None:
    keys = [{"name": "fuzz", "key": KEY}]
    async with engine_running() as engine, serving(config_of(engine, keys=keys)) as server:
        document = (await server.get("/openapi.json")).json()
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                answer = await server.request(method.upper(), path.replace("{model}", "m"), content=b"{}")
                assert (answer.status_code == 401) == ("security" in operation) == ("401" in operation["responses"])


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "$ref")
        node = list(node.values())
    if isinstance(node, list):
        for one in node:
            yield from references(one)


async def test_the_document_is_closed_and_knows_no_error_but_ours() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        document: Json = (await server.get("/openapi.json")).json()
    shapes = document["components"]["schemas"]
    assert {name.removeprefix("#/components/schemas/") for name in references(document)} == set(shapes)
    assert not {"HTTPValidationError", "ValidationError"} & set(shapes)
    for methods in document["paths"].values():
        for operation in methods.values():
            assert "422" not in operation["responses"]
            assert {"200", "400", "408", "413", "431", "500"} <= set(operation["responses"])


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_pages_of_the_api_load_nothing_from_elsewhere(path: str) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        page = await server.get(path)
        document = (await server.get("/openapi.json")).json()
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"<script|<link|<img|@import|src=|https?://", page.text)
    assert all(path in page.text for path in document["paths"])
    targets = set(re.findall(r'href="#([^"]+)"', page.text))
    assert targets <= set(re.findall(r'id="([^"]+)"', page.text))
