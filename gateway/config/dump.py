"""A configuration as it comes out: all defaults filled in, secrets masked; and what differs between two."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import yaml
from pydantic import JsonValue, SecretStr

from gateway.config import Config
from gateway.config.problems import MASK, KeyPath, dotted

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_SECTION = re.compile(r'(?:"[^"]*"|[^.])+(?:\.(?:"[^"]*"|[^.])+)?')
"""The first two parts of a key as `dotted` writes it."""
_Value = str | int | float | bool | SecretStr | None | tuple[object, ...]


def effective(config: Config) -> dict[str, JsonValue]:
    """Plain values, secrets masked."""
    return {key: _masked(value) for key, value in config.model_dump(mode="json").items()}


def to_yaml(values: dict[str, JsonValue]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def _masked(value: JsonValue) -> JsonValue:
    """Credentials inside URLs are masked too; the models mask the secrets that they know."""
    if isinstance(value, dict):
        return {key: _masked(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_masked(child) for child in value]
    return _CREDENTIALS.sub(MASK, value) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Difference:
    """One effective value that differs. Values are masked if they are secrets, None where there is none."""

    kind: Literal["added", "removed", "changed"]
    key: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        if self.kind == "changed":
            return f"{self.key}: {self.old} → {self.new}"
        return f"{self.key}: {self.old if self.kind == 'removed' else self.new}"

    def as_dict(self) -> dict[str, str | None]:
        return {"kind": self.kind, "key": self.key, "old": self.old, "new": self.new}


def differences(old: Config, new: Config) -> list[Difference]:
    """What differs, in the order of the keys. Keys under `auth.keys` are matched by their names."""
    before, after = dict(_leaves(_tree(old), ())), dict(_leaves(_tree(new), ()))
    found: list[Difference] = []
    for path in sorted({*before, *after}, key=lambda path: [str(part) for part in path]):
        if path not in after:
            found.append(Difference("removed", dotted(path), _shown(before[path]), None))
        elif path not in before:
            found.append(Difference("added", dotted(path), None, _shown(after[path])))
        elif before[path] != after[path]:
            found.append(Difference("changed", dotted(path), _shown(before[path]), _shown(after[path])))
    return found


def summary(found: Sequence[Difference], at_most: int) -> str:
    """Which keys differ, in few words: of a section that came, went or changed in several places its name alone."""
    groups: dict[tuple[str, str], list[Difference]] = {}
    for one in found:
        section = _SECTION.match(one.key)
        groups.setdefault((one.kind, section[0] if section else one.key), []).append(one)
    named = [f"{kind} {section if len(ones) > 1 else ones[0].key}" for (kind, section), ones in groups.items()]
    more = [f"{len(named) - at_most} more"] if len(named) > at_most else []
    return ", ".join([*named[:at_most], *more])


def _tree(config: Config) -> dict[str, object]:
    tree = config.model_dump()
    tree["auth"]["keys"] = {key["name"]: key for key in tree["auth"]["keys"]}
    return tree


def _leaves(value: object, path: KeyPath) -> Iterator[tuple[KeyPath, _Value]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(child, (*path, str(key)))
    elif isinstance(value, list | tuple):
        yield path, tuple(value)
    elif value is None or isinstance(value, str | int | float | bool | SecretStr):
        yield path, value


def _shown(value: _Value) -> str:
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, tuple):
        return "[" + ", ".join(_CREDENTIALS.sub(MASK, str(item)) for item in value) + "]"
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else _CREDENTIALS.sub(MASK, str(value))
