"""The configuration's JSON Schema, for editors. `headrace check` says more: it follows references as well."""

from __future__ import annotations

from pydantic import JsonValue

from gateway.config import Config

_VARIABLE: dict[str, JsonValue] = {
    "type": "string",
    "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-.*)?\}|^os\.environ/[A-Za-z_][A-Za-z0-9_]*$",
    "description": "A value from the environment: ${VAR}, ${VAR:-default} or os.environ/VAR.",
}
_OUTSIDE = ("description", "default")
_AS_IT_IS = ("default", "propertyNames")


def json_schema() -> dict[str, JsonValue]:
    """JSON Schema 2020-12. Wherever text is not free, `${VAR}` and the like are allowed besides."""
    schema = _with_variables(Config.model_json_schema())
    assert isinstance(schema, dict)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:headrace:config",
        **schema,
        "title": "Headrace configuration",
    }


def _with_variables(node: JsonValue) -> JsonValue:
    if isinstance(node, list):
        return [_with_variables(child) for child in node]
    if not isinstance(node, dict):
        return node
    if "patternProperties" in node:
        node = {**node, "additionalProperties": False}
    result = {
        key: child if key in _AS_IT_IS else _with_variables(child)
        for key, child in node.items()
        if not (key == "title" and isinstance(child, str))
    }
    if not _takes_variable(node):
        return result
    outside: dict[str, JsonValue] = {key: result.pop(key) for key in _OUTSIDE if key in result}
    return {"anyOf": [result, dict(_VARIABLE)], **outside}


def _takes_variable(node: dict[str, JsonValue]) -> bool:
    """Numbers, booleans, and strings that are restricted. A free string takes `${VAR}` as it is."""
    if node.get("type") in ("integer", "number", "boolean"):
        return True
    return node.get("type") == "string" and ("enum" in node or "pattern" in node or "const" in node)
