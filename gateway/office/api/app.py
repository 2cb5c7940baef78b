"""The admin API as one application."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from gateway.api.answers import answer_errors
from gateway.api.docs_page import HEADERS as DOCS_HEADERS
from gateway.api.docs_page import page
from gateway.api.openapi import ErrorAnswer, Health
from gateway.office.api import audit, config, groups, keys, pools, usage
from gateway.office.api.access import OPEN
from gateway.office.api.shapes import describe
from gateway.office.api.state import OfficeState

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "The request is wrong",
        401: "No valid admin key",
        403: "The role does not allow it, or a browser's page sent it",
        404: "There is no such object, or it belongs to another organisation",
        409: "There is one of that name already",
        405: "The path does not take this method",
        408: "The request did not arrive in time",
        413: "The body is too large",
        415: "The body is not JSON",
        429: "Over `admin.requests_per_second`; `retry-after` says how long to wait",
        431: "The headers are too large",
        500: "The gateway failed; its log has the reason",
        503: "The database is away; `retry-after` says how long to wait",
    }.items()
}


def create_admin_api(state: OfficeState) -> FastAPI:
    """Every route. Requests get here through `Gate`, which puts `actor` into their scope."""
    version = importlib.metadata.version("headrace")
    api = FastAPI(
        title="Headrace admin",
        version=version,
        summary="Organisations, keys, usage, configurations and pools of a gateway",
        docs_url=None,  # FastAPI's pages load scripts from a CDN
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        responses=_ERRORS,
    )
    answer_errors(api)
    _add_service(api)
    for routes in (groups, keys, usage, config, audit, pools):
        routes.add_routes(api, state)
    _describe(api)
    return api


def _add_service(api: FastAPI) -> None:
    @api.get("/health/live", tags=["service"])
    async def live() -> Health:
        """Whether the process answers."""
        return Health(status="ok")

    @api.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page(api.openapi()), headers=DOCS_HEADERS)


def _describe(api: FastAPI) -> None:
    """Have the OpenAPI document say how keys are sent. The framework's 422 never leaves the gateway."""
    framework = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            document = framework()
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            described = (groups, keys, audit)
            describe(
                document["components"]["schemas"],
                tuple(model for module in described for model in module.MODELS),
                tuple(struct for module in described for struct in module.STRUCTS),
            )
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
            for path, methods in document["paths"].items():
                for operation in methods.values():
                    operation["responses"].pop("422", None)
                    operation["security"] = [] if path in OPEN else [{"key": []}]
        return api.openapi_schema or document

    api.openapi = openapi  # type: ignore[method-assign]
