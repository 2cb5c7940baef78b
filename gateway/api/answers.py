"""How an application of routes says that something went wrong: always in OpenAI's error shape."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from gateway.errors import ApiError, InternalError, InvalidRequest, NotFound, from_status


def answer_errors(api: FastAPI) -> None:
    """Answer whatever is raised with an `ApiError`, and note it in the request's record."""
    api.add_exception_handler(ApiError, _on_api_error)
    api.add_exception_handler(HTTPException, _on_http_error)
    api.add_exception_handler(RequestValidationError, _on_wrong_parameter)
    api.add_exception_handler(Exception, _on_crash)


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _answer(request, error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        path = repr(request.scope["path"][:200])[1:-1]  # control characters and their like are written out
        return _answer(request, NotFound(f"There is nothing at {request.method} {path}."))
    return _answer(request, from_status(error.status_code, str(error.detail)), error.headers)


async def _on_wrong_parameter(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return _answer(request, InvalidRequest(f"Wrong parameter: {problems}."))


async def _on_crash(request: Request, error: Exception) -> Response:
    return _answer(request, InternalError())


def _answer(request: Request, error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    request.scope["record"].note(error)
    lines = (line.split(": ", 1) for line in error.header_lines().decode().split("\r\n") if line)
    more = {name.lower(): value for name, value in (headers or {}).items()}
    return Response(error.body(), error.status, dict(lines) | more, media_type="application/json")
