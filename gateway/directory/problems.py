"""What the directory refuses. The messages are for people; no secret is in them.

Refused
├── NotThere   there is nothing of that name
├── Taken      there is one of that name already
└── Invalid    a value is not taken, or does not go with the others
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.config.explain import pattern_rule, shown
from gateway.config.problems import did_you_mean, dotted

_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._:/@+-]*")


class Refused(Exception):
    """Nothing was changed."""


class NotThere(Refused):
    pass


class Taken(Refused):
    pass


class Invalid(Refused):
    pass


def check_name(kind: str, name: str) -> None:
    """
    Raises:
        NotThere: nothing can have that name; no database is asked for it.
    """
    if len(name) > 128 or _NAME.fullmatch(name) is None:
        raise NotThere(f"there is no {kind} {_safe(shown(name))}: {pattern_rule('^[A-Za-z0-9]')[1]}")


def askable(text: str) -> str:
    """A text that somebody looks for, as any database takes it: without NUL and halves of surrogates."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")


def not_there(kind: str, name: str, known: Iterable[str] = (), within: str = "") -> NotThere:
    """Names the nearest one that there is."""
    hint = did_you_mean(name, list(known))
    return NotThere(f"there is no {kind} {shown(name)}{within}{f' ({hint})' if hint else ''}")


def invalid(error: ValidationError) -> Invalid:
    """All that is wrong with a specification."""
    return Invalid("; ".join(map(_told, error.errors(include_url=False))))


def _told(details: ErrorDetails) -> str:
    place = _safe(dotted(tuple(part for part in details["loc"] if part != "[key]")))
    said = details["msg"].removeprefix("Value error, ")
    value = _safe(shown(details["input"]))
    if details["type"] == "string_pattern_mismatch":
        message, hint = pattern_rule(str(details["ctx"]["pattern"]))
        told = f"{message.format(value=value)}: {hint}"
    elif details["type"] in ("missing", "extra_forbidden"):
        told = "it is missing" if details["type"] == "missing" else "there is no such setting"
    elif details["loc"] or details["type"] != "value_error":
        told = f"{value} is not taken: {said[:1].lower()}{said[1:]}"
    else:
        told = said
    return f"{place}: {told}" if place else told


def _safe(text: str) -> str:
    """In one line, and with nothing in it that a terminal obeys."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
