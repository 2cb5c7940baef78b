"""What the models say about a place in the tree: its type, whether it is a secret, whether it may be left out."""

from __future__ import annotations

import math
import re
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from gateway.config import Config
from gateway.config.problems import KeyPath
from gateway.config.yaml import Scalar

_NULL_TEXT = {"", "~", "null", "Null", "NULL"}
_TRUE_TEXT = {"true", "1", "yes", "on"}
_FALSE_TEXT = {"false", "0", "no", "off"}


@dataclass(frozen=True, slots=True)
class Expected:
    """The types that one place takes: classes, `Literal[...]`, `list[...]` or `dict[...]`, without `None`."""

    kinds: tuple[Any, ...]
    optional: bool

    @property
    def model(self) -> type[BaseModel] | None:
        return next((kind for kind in self.kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)

    @property
    def secret(self) -> bool:
        return any(holds_secret(kind) for kind in self.kinds)

    @property
    def container(self) -> bool:
        return self.model is not None or any(get_origin(kind) in (list, dict) for kind in self.kinds)

    @property
    def literals(self) -> tuple[str, ...]:
        return tuple(str(choice) for kind in self.kinds if get_origin(kind) is Literal for choice in get_args(kind))


def expected(annotation: object) -> Expected:
    """Take an annotation apart."""
    if get_origin(annotation) is Annotated:
        return expected(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [expected(part) for part in get_args(annotation)]
        kinds = tuple(kind for part in parts for kind in part.kinds)
        return Expected(kinds, optional=any(part.optional for part in parts))
    if annotation is None or annotation is type(None):
        return Expected((), optional=True)
    return Expected((annotation,), optional=False)


def expected_at(path: KeyPath, root: type[BaseModel] = Config) -> Expected | None:
    """What the models take at `path`; None where they know no such key."""
    current = Expected((root,), optional=False)
    for part in path:
        below = _child(current, part)
        if below is None:
            return None
        current = expected(below)
    return current


def _child(parent: Expected, part: str | int) -> object | None:
    for kind in parent.kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found = kind.model_fields.get(str(part))
            return None if found is None else found.annotation
        if get_origin(kind) is dict:
            return typing.cast("object", get_args(kind)[1])
        if get_origin(kind) is list and isinstance(part, int):
            return typing.cast("object", get_args(kind)[0])
    return None


def holds_secret(kind: object) -> bool:
    """Whether a value of this type is or contains a secret."""
    parts = expected(kind).kinds
    for part in parts:
        if part is SecretStr:
            return True
        if isinstance(part, type) and issubclass(part, BaseModel):
            if any(holds_secret(info.annotation) for info in part.model_fields.values()):
                return True
        elif get_origin(part) in (list, dict) and holds_secret(get_args(part)[-1]):
            return True
    return False


def is_secret(path: KeyPath) -> bool:
    """Whether a scalar at `path` is to be masked. What the models do not know is masked as well."""
    found = expected_at(path)
    return found is None or found.secret or path[-1:] == ("hash",)


def constraint(info: FieldInfo, name: str) -> object | None:
    """A limit such as `ge` or `pattern` of a field, wherever in its annotation it stands."""
    for part in (*info.metadata, *_nested_metadata(info.annotation)):
        value = getattr(part, name, None)
        if value is not None:
            return typing.cast("object", value)
    return None


def _nested_metadata(annotation: object) -> list[object]:
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        flat = [part for entry in metadata for part in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]
        return [*flat, *_nested_metadata(inner)]
    if get_origin(annotation) in (Union, types.UnionType):
        return [part for member in get_args(annotation) for part in _nested_metadata(member)]
    return []


def typed(text: str, where: Expected) -> Scalar:
    """A text that came from variables, as the type that its place takes; unchanged if it does not fit."""
    if where.optional and text in _NULL_TEXT:
        return None
    if bool in where.kinds and text.lower() in _TRUE_TEXT | _FALSE_TEXT:
        return text.lower() in _TRUE_TEXT
    if int in where.kinds and re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text)
    if float in where.kinds:
        try:
            number = float(text)
        except ValueError:
            return text
        return number if math.isfinite(number) else text
    return text
