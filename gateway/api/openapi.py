"""The OpenAPI document: shapes of our own answers, and the model calls, which no framework sees."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from gateway.explanation import Explanation

Json = dict[str, Any]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Every error has this shape."""

    error: ErrorDetail


Status = Literal["ok", "starting", "draining"]


class Health(BaseModel):
    status: Status
    available_replicas: dict[str, int] | None = None
    """Per deployment: replicas that requests may go to."""


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Version(BaseModel):
    version: str
    config: str
    """Version of the configuration that serves."""


class _Call(BaseModel):
    """Whatever is not listed here passes to the engine untouched."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, description="A deployment, as GET /v1/models lists them.")


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = None


class ChatCall(_Call):
    messages: list[Json]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    n: int | None = None
    tools: list[Json] | None = None
    response_format: Json | None = None


class CompletionCall(_Call):
    prompt: str | list[str] | list[int] | list[list[int]]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    n: int | None = None


class EmbeddingCall(_Call):
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


class TokenizeCall(_Call):
    """Either `prompt` or `messages`."""

    prompt: str | None = None
    messages: list[Json] | None = None
    add_special_tokens: bool | None = None


class DetokenizeCall(_Call):
    tokens: list[int]


_CALLS: dict[str, tuple[str, type[BaseModel], bool]] = {
    "/v1/chat/completions": ("Answer a conversation", ChatCall, True),
    "/v1/completions": ("Continue a text", CompletionCall, True),
    "/v1/embeddings": ("Turn text into vectors", EmbeddingCall, False),
    "/tokenize": ("Turn a prompt or a conversation into tokens, as the model does", TokenizeCall, False),
    "/detokenize": ("Turn tokens into text", DetokenizeCall, False),
}

_EXPLAINED = (ChatCall, CompletionCall, EmbeddingCall)
_SCHEMAS = "#/components/schemas/{name}"
EXPLAIN: Json = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"anyOf": [{"$ref": _SCHEMAS.format(name=call.__name__)} for call in _EXPLAINED]}
            }
        },
    },
    "responses": {
        "200": {
            "description": "How it would be routed",
            "content": {"application/json": {"schema": {"$ref": _SCHEMAS.format(name=Explanation.__name__)}}},
        }
    },
}
"""Of `POST /admin/explain`, whose body no framework reads."""

_SERVER_ERRORS = {
    400: "The request is wrong",
    408: "The request did not arrive in time",
    413: "The body is too large",
    431: "The headers are too large",
    500: "The gateway failed; its log has the reason",
}
"""What any request may be answered with."""

_CALL_ERRORS = {
    401: "No valid API key",
    403: "The key may not call this model",
    404: "No such model",
    409: "The engine reports a conflict",
    429: "Over a limit; `retry-after` says how long to wait",
    502: "The engine failed",
    503: "The engines are full or away; `retry-after` says how long to wait",
    504: "The engine gave no answer in time",
}

_ERROR: Json = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
_WAITS = (429, 503)
_RETRY: Json = {
    "retry-after": {"description": "Seconds to wait", "schema": {"type": "integer", "minimum": 1, "maximum": 120}},
    "retry-after-ms": {"description": "The same in milliseconds", "schema": {"type": "integer", "minimum": 1}},
}
_REQUEST_ID: Json = {
    "x-request-id": {"description": "Yours if it was usable, else one of the gateway's", "schema": {"type": "string"}}
}
_ROUTE: Json = {
    f"x-headrace-{name}": {"description": f"The {name} that answered", "schema": {"type": "string"}}
    for name in ("variant", "pool", "replica")
}
_PARAMETERS: list[Json] = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string"},
    }
    for name, description in {
        "x-request-id": "Names the request in logs and answers: up to 128 letters, digits and `._:/+=@-`",
        "traceparent": "The caller's span, by W3C Trace Context",
        "cache-control": "`no-cache` asks the engine again; `no-store` keeps the answer out of the response cache too",
    }.items()
]


def complete(api: FastAPI) -> None:
    """Make `api.openapi()` describe the model calls, the API keys and the server's own errors too."""
    framework = api.openapi

    def openapi() -> Json:
        if api.openapi_schema is None:
            document = framework()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(msgspec.json.schema_components([Explanation], ref_template=_SCHEMAS)[1])
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, (summary, body, streams) in _CALLS.items():
                document["paths"][path] = {"post": _operation(path, summary, _schema(body, schemas), streams)}
            _add_server_errors(document)
        return api.openapi_schema or document

    api.openapi = openapi  # type: ignore[method-assign]


def _add_server_errors(document: Json) -> None:
    """The framework's 422 never leaves the gateway; refusals of the server may meet any request."""
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    for methods in document["paths"].values():
        for operation in methods.values():
            answers = operation["responses"]
            answers.pop("422", None)
            if "401" in answers:
                operation["security"] = [{"key": []}]
            for status, text in _SERVER_ERRORS.items():
                answers.setdefault(str(status), {"description": text, "content": _ERROR})
            operation["responses"] = dict(sorted(answers.items()))


def _schema(model: type[BaseModel], schemas: Json) -> Json:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _operation(path: str, summary: str, schema: Json, streams: bool) -> Json:
    answer: Json = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        events = "Chunks as `data: JSON`, at the end `data: [DONE]`; instead of it an error as `data: JSON`"
        answer["text/event-stream"] = {"schema": {"description": events}}
    responses: Json = {
        "200": {"description": "The engine's answer", "content": answer, "headers": _REQUEST_ID | _ROUTE}
    }
    for status, text in (_SERVER_ERRORS | _CALL_ERRORS).items():
        headers = _REQUEST_ID | _RETRY if status in _WAITS else _REQUEST_ID
        responses[str(status)] = {"description": text, "content": _ERROR, "headers": headers}
    return {
        "tags": ["models"],
        "summary": summary,
        "operationId": path.removeprefix("/v1").strip("/").replace("/", "_"),
        "parameters": _PARAMETERS,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": responses,
    }
