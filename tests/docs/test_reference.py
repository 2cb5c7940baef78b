"""Errors, routes and headers: the reference has each of the code's, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from engines.base import (
    EngineDied,
    EngineError,
    EngineProtocolError,
    EngineTimeout,
    EngineUnreachable,
    Operation,
    Timeouts,
)
from gateway import errors
from gateway.api.routes import ApiState, create_api
from gateway.errors import ApiError
from gateway.routes import CALLS
from gateway.upstream import Outcome, Rejection, check_whole, from_engine_error, rejection
from tests.docs.pages import API, ERRORS, ROOT, names

SOURCES = sorted((ROOT / "gateway").rglob("*.py"))
ERROR_COLUMNS = "Code "
ANSWER_COLUMNS = "Engine's answer "
NO_ANSWER: dict[str, EngineError] = {
    "no connection: refused, name unknown, TLS fails": EngineUnreachable(""),
    "no connection in time": EngineTimeout("", phase="connect", limit_s=1),
    "no first byte in time": EngineTimeout("", phase="ttft", limit_s=1),
    "a pause that is too long": EngineTimeout("", phase="idle", limit_s=1),
    "no end in time": EngineTimeout("", phase="total", limit_s=1),
    "the connection breaks": EngineDied(""),
    "not HTTP/1.1": EngineProtocolError(""),
}
WHOLE = {
    "200, not JSON": b"<html>",
    "200 without choices, message or vectors": b'{"choices": null}',
    "200 with an error in it": b'{"error": {"message": "no"}}',
}


def kinds() -> Iterator[type[ApiError]]:
    waiting: list[type[ApiError]] = [ApiError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        yield kind


def parsed() -> Iterator[tuple[Path, ast.AST]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield path, node


def codes_of_the_code() -> dict[str, type[ApiError]]:
    """Each code, and the class that it is sent with."""
    by_name = {kind.__name__: kind for kind in kinds()}
    bases = (errors.Overloaded, errors.RateLimited)
    found = {kind.default_code: kind for kind in kinds() if kind.__subclasses__() == [] or kind in bases}
    found |= {f"{field.removesuffix('_s')}_timeout": errors.UpstreamTimeout for field in Timeouts.__struct_fields__}
    for path, node in parsed():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        for keyword in node.keywords:
            if keyword.arg != "code" or not isinstance(keyword.value, ast.Constant):
                continue
            if isinstance(keyword.value.value, str):
                assert node.func.id in by_name, f"{path}:{node.lineno}: whose error is {keyword.value.value}?"
                found[keyword.value.value] = by_name[node.func.id]
    return found


def test_every_error_code_is_described_and_no_other() -> None:
    codes = [names(row[0])[0] for row in ERRORS.rows(ERROR_COLUMNS)]
    assert len(codes) == len(set(codes))
    assert set(codes) == set(codes_of_the_code())


def test_an_error_is_described_with_its_status_type_and_whether_it_is_retried() -> None:
    known = codes_of_the_code()
    for code, status, kind, *_, retried in ERRORS.rows(ERROR_COLUMNS):
        error = known[names(code)[0]]
        assert (int(status), names(kind)[0]) == (error.status, error.type), code
        again = error.status in (408, 409, 429) or error.status >= 500
        told_not_to = error in (errors.InsufficientQuota, errors.NotCached)
        assert retried == ("yes" if again and not told_not_to else "no"), code


@pytest.mark.parametrize("row", list(ERRORS.rows(ANSWER_COLUMNS)), ids=lambda row: row[0])
def test_an_engines_answer_becomes_what_the_table_says(row: list[str]) -> None:
    """A09."""
    answer, status, code, breaker, elsewhere = row
    if answer == "200 with an answer":
        return
    for error, outcome, again in _becomes(answer):
        assert error.code == names(code)[0], answer
        if status.isdecimal():
            assert error.status == int(status), answer
        if breaker in set(Outcome):
            assert (outcome, "yes" if again else "no") == (breaker, elsewhere), answer


def _becomes(answer: str) -> Iterator[tuple[ApiError, Outcome, bool]]:
    if answer in NO_ANSWER:
        failure = NO_ANSWER[answer]
        late = isinstance(failure, EngineTimeout) and failure.phase == "total"
        yield from_engine_error(failure), Outcome.BROKEN, not late
        return
    if answer in WHOLE:
        with pytest.raises(Rejection) as raised:
            check_whole(Operation.CHAT, WHOLE[answer])
        yield raised.value.error, raised.value.outcome, raised.value.outcome is not Outcome.FINE
        return
    message = "no"
    if "context length" in answer:
        message = "This model's maximum context length is 10 tokens."
    elif "speaks of a model" in answer:
        message = "The model `x` does not exist."
    body = msgspec.json.encode({"error": {"message": message}})
    statuses = re.findall(r"\b\d{3}\b", answer)
    assert statuses, f"nothing is known of {answer!r}"
    for status in statuses:
        found = rejection(Operation.CHAT, int(status), {}, body)
        yield found.error, found.outcome, found.outcome is not Outcome.FINE


def documented_routes() -> set[tuple[str, str]]:
    posts, gets = set[str](), set[str]()
    for row in API.rows(r"Route \| Also \| Answers"):
        posts |= {*names(row[0]), *names(row[1])}
    for row in API.rows(r"Route \| Also \| Key"):
        gets |= {*names(row[0]), *names(row[1])}
    return {("POST", path) for path in posts} | {("GET", path) for path in gets}


def test_every_route_is_described_and_no_other() -> None:
    api = create_api(cast(ApiState, None))
    routes = {("POST", path) for path in CALLS}
    for route in api.routes:
        assert isinstance(route, Route | APIRoute)
        if route.path != api.swagger_ui_oauth2_redirect_url:
            routes |= {(method, route.path.replace(":path", "")) for method in route.methods or () if method != "HEAD"}
    assert documented_routes() == routes


def headers_of_the_code() -> set[str]:
    """Names in header lines, and in assignments to `headers[…]`, anywhere in the gateway."""
    found = set[str]()
    for _, node in parsed():
        if isinstance(node, ast.JoinedStr):
            text = "X".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, bytes):
            text = node.value.decode("latin-1")
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith(".headers"):
            text = f"{ast.literal_eval(node.slice)}: \r\n" if isinstance(node.slice, ast.Constant) else ""
        else:
            continue
        if "\r\n" in text:
            found |= set(re.findall(r"(?:^|\r\n|%b)([a-z][a-z-]+): ", text))
    return found


def test_every_header_that_is_sent_is_described() -> None:
    described = set(names(API.prose))
    found = headers_of_the_code()
    assert {"x-request-id", "x-headrace-attempts", "retry-after-ms", "x-accel-buffering", "www-authenticate"} <= found
    assert found <= described


def test_every_error_header_is_described() -> None:
    error = errors.RateLimited("no", retry_after_s=1)
    error.should_retry = False
    lines = error.header_lines() + errors.Unauthenticated("no").header_lines()
    described = {name for row in API.rows("Header ") for name in names(row[0])}
    assert {line.partition(":")[0] for line in lines.decode().splitlines()} <= described
