"""Bodies that routes take and give: checked, encoded, and described in the OpenAPI document."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from fastapi import Depends, Request, Response
from pydantic import BaseModel, ValidationError

from gateway.config.problems import dotted
from gateway.directory.problems import invalid
from gateway.errors import InvalidRequest

Json = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)
_REF = "#/components/schemas/{}"


def body(kind: type[Model]) -> Any:
    """For `Annotated[KeySpec, body(KeySpec)]`: the body as one. `takes` describes it.

    The framework reads numbers that are none and nesting without end; what reads here does neither.
    """

    async def read(request: Request) -> Model:
        try:
            return kind.model_validate_json(await request.body())
        except ValidationError as error:
            raise _wrong(error) from None

    return Depends(read)


def _wrong(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        reason = str(first.get("ctx", {}).get("error", "it is no JSON"))
        return InvalidRequest(f"The body is not valid JSON: {reason}.", code="invalid_json")
    return InvalidRequest(f"{invalid(error)}.", param=dotted(tuple(first["loc"])) or None)


def sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def told(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def takes(kind: type[BaseModel]) -> Json:
    """For `openapi_extra`."""
    content = {"application/json": {"schema": {"$ref": _REF.format(kind.__name__)}}}
    return {"requestBody": {"required": True, "content": content}}


def gives(kind: type[msgspec.Struct], description: str, status: int = 200) -> dict[int | str, Json]:
    """For `responses`."""
    content = {"application/json": {"schema": {"$ref": _REF.format(kind.__name__)}}}
    return {status: {"description": description, "content": content}}


def describe(schemas: Json, models: tuple[type[BaseModel], ...], structs: tuple[type[msgspec.Struct], ...]) -> None:
    """Add what `takes` and `gives` name to the document's schemas."""
    for model in models:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    found = msgspec.json.schema_components(structs, schema_hook=_anything, ref_template="#/components/schemas/{name}")
    schemas.update(found[1])


def _anything(_kind: type) -> Json:
    return {"description": "Any JSON"}
