"""The smallest sensible instance of a JSON Schema, for `response_format` and tool arguments."""

from __future__ import annotations

from typing import cast

_DEPTH = 16
_SAMPLES = {
    "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "a@example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uri": "http://example.com/",
}

Schema = dict[str, object]


def minimal_instance(schema: object, root: Schema | None = None, depth: int = 0) -> object:
    """A value that the schema allows: required properties only, the least length, the first choice.

    `pattern`, `not` and conditions are not looked at.
    """
    if not isinstance(schema, dict) or depth > _DEPTH:
        return {} if depth == 0 else None
    root = root if root is not None else schema
    for key in ("const", "default"):
        if key in schema:
            return cast("object", schema[key])
    for key in ("enum", "examples"):
        choices = schema.get(key)
        if isinstance(choices, list) and choices:
            return cast("object", choices[0])
    inner = _indirect(schema, root)
    if inner is not None:
        return minimal_instance(inner, root, depth + 1)
    return _of_type(schema, root, depth)


def _indirect(schema: Schema, root: Schema) -> object | None:
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return _resolve(reference, root)
    for key in ("anyOf", "oneOf"):
        choices = schema.get(key)
        if isinstance(choices, list) and choices:
            return cast("object", choices[0])
    parts = schema.get("allOf")
    if isinstance(parts, list) and parts:
        return _merge([schema, *(p for p in parts if isinstance(p, dict))], root)
    return None


def _merge(parts: list[Schema], root: Schema) -> Schema:
    merged: Schema = {}
    properties: dict[str, object] = {}
    required: list[object] = []
    for part in parts:
        reference = part.get("$ref")
        resolved = _resolve(reference, root) if isinstance(reference, str) else part
        if not isinstance(resolved, dict):
            continue
        merged.update(resolved)
        inner, names = resolved.get("properties"), resolved.get("required")
        properties.update(inner if isinstance(inner, dict) else {})
        required.extend(names if isinstance(names, list) else [])
    merged.pop("allOf", None)
    merged.pop("$ref", None)
    return merged | {"properties": properties, "required": required}


def _resolve(reference: str, root: Schema) -> object:
    node: object = root
    for part in reference.lstrip("#").strip("/").split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if key:
            node = node.get(key, {}) if isinstance(node, dict) else {}
    return node


def _of_type(schema: Schema, root: Schema, depth: int) -> object:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "object" or (kind is None and ("properties" in schema or depth == 0)):
        return _object(schema, root, depth)
    if kind == "array":
        return [minimal_instance(schema.get("items", {}), root, depth + 1)] * _whole(schema.get("minItems"))
    if kind == "string":
        sample = _SAMPLES.get(str(schema.get("format")), "")
        return sample or "a" * _whole(schema.get("minLength"))
    if kind in ("integer", "number"):
        return _number(schema, whole=kind == "integer")
    return False if kind == "boolean" else None


def _object(schema: Schema, root: Schema, depth: int) -> dict[str, object]:
    properties, required = schema.get("properties"), schema.get("required")
    properties = properties if isinstance(properties, dict) else {}
    names = required if isinstance(required, list) else []
    return {str(name): minimal_instance(properties.get(name, {}), root, depth + 1) for name in names}


def _number(schema: Schema, *, whole: bool) -> float:
    bounds = [(schema.get("minimum"), 0), (schema.get("exclusiveMinimum"), 1)]
    lows = [low + step for low, step in bounds if isinstance(low, int | float)]
    highs = [
        high - step
        for high, step in ((schema.get("maximum"), 0), (schema.get("exclusiveMaximum"), 1))
        if isinstance(high, int | float)
    ]
    value: float = max(lows) if lows else min([0, *highs])
    multiple = schema.get("multipleOf")
    if isinstance(multiple, int | float) and multiple > 0:
        value = -(-value // multiple) * multiple
    return int(-(-value // 1)) if whole else value


def _whole(value: object) -> int:
    return min(value, 1024) if isinstance(value, int) and value > 0 else 0
