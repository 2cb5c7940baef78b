"""Every route that is not a model call, as a FastAPI application, and the OpenAPI document for all of them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from engines.base import Operation
from gateway.api.answers import answer_errors
from gateway.api.cache import add_cache_routes
from gateway.api.docs_page import HEADERS as DOCS_HEADERS
from gateway.api.docs_page import page
from gateway.api.openapi import EXPLAIN, ErrorAnswer, Health, Model, ModelList, Status, Version, complete
from gateway.caching.desk import Desk
from gateway.catalog import Catalog, Deployment
from gateway.clock import Clock
from gateway.errors import Forbidden
from gateway.explanation import Explanation
from gateway.http import Request as Message
from gateway.identity import Caller, KeyRing
from gateway.pool_report import PoolList
from gateway.telemetry import Exposition
from gateway.wire import operation_of

Responses = dict[int | str, dict[str, Any]]
Explained = Literal["chat", "completions", "embeddings"]


@dataclass(slots=True)
class ApiState:
    """What the routes read.

    metrics:  all workers' metrics, in the format that an Accept header asks for.
    status:   whether new requests should come here, and if not, why.
    pools:    what all workers see of the pools.
    explain:  how this worker would route a request, as if the caller had sent it.
    config_version: of the configuration that serves.
    cache:    of this worker; gives None where it is off.
    """

    identity: KeyRing
    catalog: Catalog
    clock: Clock
    started_at: int
    metrics: Callable[[str], Awaitable[Exposition]]
    status: Callable[[], Status]
    pools: Callable[[], Awaitable[PoolList]]
    explain: Callable[[Operation, Message, Caller], Awaitable[Explanation]]
    config_version: str
    cache: Callable[[], Desk | None]


def create_api(state: ApiState) -> FastAPI:
    version = importlib.metadata.version("headrace")
    api = FastAPI(
        title="Headrace",
        version=version,
        summary="An OpenAI-compatible gateway over your engine pools",
        docs_url=None,  # FastAPI's pages load scripts from a CDN
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    answer_errors(api)
    _add_health(api, state)
    _add_models(api, state)
    _add_service(api, state, version)
    _add_admin(api, state)
    add_cache_routes(api, lambda: state.cache(), partial(_caller, state), partial(_admin, state))  # noqa: PLW0108 - later
    complete(api)
    return api


def _add_health(api: FastAPI, state: ApiState) -> None:
    async def live() -> Health:
        """Whether the process answers. Calls no engine."""
        return Health(status="ok")

    async def ready(response: Response) -> Health:
        """Whether new requests should come here: 503 while engines of the gateway's own load, and as soon as it drains.

        Calls no engine.
        """
        status = state.status()
        if status != "ok":
            response.status_code = 503
            response.headers["retry-after"] = "1"
            response.headers["retry-after-ms"] = "1000"
            return Health(status=status)
        now_s = state.clock.monotonic()
        available = {
            d.name: sum(r.breaker.allows(now_s) for v in d.variants for r in v.replicas)
            for d in state.catalog.deployments
        }
        return Health(status="ok", available_replicas=available)

    for path in ("/health/live", "/health/liveliness", "/liveness"):
        api.get(path, tags=["health"], include_in_schema=path == "/health/live")(live)
    answers: Responses = {503: {"model": Health, "description": "Starting or draining"}}
    for path in ("/health/ready", "/health", "/healthz", "/readyz", "/readiness"):
        listed = path in ("/health/ready", "/health")
        api.get(path, tags=["health"], include_in_schema=listed, responses=answers)(ready)


def _add_models(api: FastAPI, state: ApiState) -> None:
    def described(deployment: Deployment) -> Model:
        return Model(id=deployment.name, created=state.started_at, owned_by="headrace")

    async def list_models(request: Request) -> ModelList:
        """The deployments that this key may call."""
        caller = await _caller(state, request)
        return ModelList(data=[described(d) for d in state.catalog.visible(caller)])

    async def get_model(request: Request, model: str) -> Model:
        """One deployment."""
        caller = await _caller(state, request)
        deployment = state.catalog.resolve(model, caller)
        return described(deployment)

    refused: Responses = {401: {"model": ErrorAnswer, "description": "No valid API key"}}
    unknown: Responses = {
        403: {"model": ErrorAnswer, "description": "The key may not call this model"},
        404: {"model": ErrorAnswer, "description": "No such model"},
    }
    for prefix in ("/v1", ""):
        listed = bool(prefix)
        api.get(f"{prefix}/models", tags=["models"], include_in_schema=listed, responses=refused)(list_models)
        api.get(
            f"{prefix}/models/{{model:path}}",
            tags=["models"],
            include_in_schema=listed,
            responses=refused | unknown,
        )(get_model)


def _add_service(api: FastAPI, state: ApiState, version: str) -> None:
    formats: Responses = {200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}}

    @api.get("/metrics", tags=["service"], response_class=Response, responses=formats)
    async def metrics(request: Request) -> Response:
        """Prometheus metrics, summed over all workers; OpenMetrics by Accept."""
        exposition = await state.metrics(request.headers.get("accept", ""))
        return Response(exposition.body, headers={"content-type": exposition.content_type})

    @api.get("/version", tags=["service"])
    async def get_version() -> Version:
        """The version of the gateway, and that of its configuration."""
        return Version(version=version, config=state.config_version)

    @api.get("/docs", include_in_schema=False)
    @api.get("/redoc", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page(api.openapi()), headers=DOCS_HEADERS)


def _add_admin(api: FastAPI, state: ApiState) -> None:
    refused: Responses = {
        401: {"model": ErrorAnswer, "description": "No valid API key"},
        403: {"model": ErrorAnswer, "description": "The key is not for administration"},
    }

    unknown: Responses = {404: {"model": ErrorAnswer, "description": "No such model"}}

    @api.get("/admin/pools", tags=["service"], responses=refused)
    async def get_pools(request: Request) -> PoolList:
        """Pools and their replicas, summed over all workers. Takes a key with `admin: true`, if there are keys."""
        await _admin(state, request)
        return await state.pools()

    @api.post("/admin/explain", tags=["service"], responses=refused | unknown, openapi_extra=EXPLAIN)
    async def explain(request: Request, operation: Explained | None = None) -> Response:
        """How a model call would be routed now, by the books of the worker that answers. Nothing is sent to any engine.

        The body and the headers are those of the model call. Without `operation` the fields of the body tell it.
        Takes a key with `admin: true`, if there are keys; the call is routed as one of this key's.
        """
        caller, message = await _admin(state, request), await _message(request)
        asked = operation_of(message.body) if operation is None else Operation[operation.upper()]
        told = await state.explain(asked, message, caller)
        return Response(msgspec.json.encode(told), media_type="application/json")


async def _caller(state: ApiState, request: Request) -> Caller:
    return await state.identity.admit(dict(request.headers.raw), _address(request))


async def _admin(state: ApiState, request: Request) -> Caller:
    caller = await _caller(state, request)
    if not caller.admin:
        message = f"Key {caller.key_name!r} may not see this; its `admin` setting is not true."
        raise Forbidden(message, code="not_admin")
    return caller


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


async def _message(request: Request) -> Message:
    raw = request.headers.raw
    return Message(b"POST", b"", request.url.path, dict(raw), raw, await request.body(), _address(request))
