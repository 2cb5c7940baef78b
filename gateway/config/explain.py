"""Validation errors of the models in a person's words: the value, the limit, and what would be right."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.config.problems import MASK, Finding, KeyPath, did_you_mean, dotted
from gateway.config.types import expected_at, is_secret

_NAME_RULE = "a name is letters, digits and . _ : / @ + -, beginning with a letter or digit, at most 128"
_PATTERNS = (
    ("^https?", "not an http:// or https:// URL without query", "write it like http://10.0.0.1:8000"),
    ("^sha256", "not a key hash", "a hash is `sha256:` and 64 hex digits, as `headrace keys hash` prints"),
    ("^[A-Za-z0-9]", "not a name", _NAME_RULE),
)
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    list: "a list",
    dict: "a mapping",
    type(None): "empty",
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a string",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}
_LIMITS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth|salt", re.IGNORECASE)
SECRET_TEXT = re.compile(r"\b(?:sk|pk|hf|ghp|xox[a-z])[-_][A-Za-z0-9_-]{4,}|\bBearer\s+\S+|://[^/\s@]+@")


def findings(error: ValidationError, variables: Mapping[KeyPath, tuple[str, ...]]) -> list[Finding]:
    """One finding for each thing that the models refused."""
    return [_explain(details, variables) for details in error.errors(include_url=False)]


def shown(value: object, path: KeyPath = (), variables: tuple[str, ...] = ()) -> str:
    """A value as a message may hold it: short, and masked if it is, or looks like, a secret."""
    if isinstance(value, dict | list):
        return _WORDS[dict if isinstance(value, dict) else list]
    if value is None:
        return "empty"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    secret = path and is_secret(path)
    if secret or any(map(SECRET_NAME.search, variables)) or SECRET_TEXT.search(text):
        return MASK
    text = text if len(text) <= 60 else text[:57] + "…"
    return f'"{text}"' if isinstance(value, str) else text


def _explain(details: ErrorDetails, variables: Mapping[KeyPath, tuple[str, ...]]) -> Finding:
    path: KeyPath = tuple(part for part in details["loc"] if part != "[key]")
    at_key = "[key]" in details["loc"]
    names = variables.get(path, ())
    value = shown(details["input"], () if at_key else path, names)
    origin = f" (from ${{{'}, ${'.join(names)}}})" if names else ""
    kind, ctx = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing":
        hint = f"add `{path[-1]}: …` here"
        return Finding(path[:-1], f'the key "{path[-1]}" is missing', hint, at_key=True)
    message, hint = _said(kind, ctx, details, path)
    return Finding(path, message.format(value=value + origin), hint, value=value, at_key=at_key)


def _said(kind: str, ctx: Mapping[str, Any], details: ErrorDetails, path: KeyPath) -> tuple[str, str]:
    """A message with `{value}` in it, and a hint."""
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        return "{value} is out of range", f"it takes {words} {_number(ctx[name])}"
    if kind == "literal_error":
        where = expected_at(path)
        choices = where.literals if where else ()
        close = did_you_mean(str(details["input"]), choices)
        close = close if close.startswith("did") else ""
        return "{value} is not a choice", f"{close + ' ' if close else ''}it takes {', '.join(choices)}"
    if kind == "string_pattern_mismatch":
        return pattern_rule(str(ctx["pattern"]))
    if kind in {"too_short", "string_too_short"}:
        return "{value} is too short", f"it needs at least {ctx['min_length']}"
    if kind in {"too_long", "string_too_long"}:
        return "{value} is too long", f"it takes at most {ctx['max_length']}"
    if kind == "finite_number":
        return "{value} is not a finite number", ""
    wanted = next((words for prefix, words in _KINDS.items() if kind.startswith(prefix)), None)
    if wanted is None:
        return "{value}: " + details["msg"].replace("{", "{{").replace("}", "}}"), ""
    return _wrong_type(details["input"], wanted, path)


def _number(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


def pattern_rule(pattern: str) -> tuple[str, str]:
    """What a text that does not match `pattern` is not, as a message with `{value}`, and what would be right."""
    for start, message, hint in _PATTERNS:
        if pattern.startswith(start):
            return "{value} is " + message, hint
    return "{value} has a wrong form", f"it has to match {pattern}"


def _wrong_type(value: object, wanted: str, path: KeyPath) -> tuple[str, str]:
    name = path[-1] if path else ""
    if value is None:
        return "there is no value", f"it takes {wanted}; without one, leave the key out"
    if wanted == "a string" and not isinstance(value, dict | list):
        return "{value} is not a string", "put it in quotes"
    if wanted == "a list" and not isinstance(value, dict):
        return "{value} is not a list", f"write `{name}: [ … ]`"
    return "{value} is not " + wanted, f"it takes {wanted}"


def _unknown_key(path: KeyPath) -> Finding:
    parent = expected_at(path[:-1])
    model: type[BaseModel] | None = parent.model if parent else None
    known = list(model.model_fields) if model else []
    where = f"in {dotted(path[:-1])}" if path[:-1] else "at the top level"
    return Finding(path, f'there is no key "{path[-1]}" {where}', did_you_mean(str(path[-1]), known), at_key=True)
