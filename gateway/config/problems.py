"""What is wrong with a configuration, told so that a person can put it right without asking."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

KeyPath = tuple[str | int, ...]
"""Where a value stands in the tree: keys of mappings and indices of lists."""

MASK = "**********"


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The source line of a problem, secrets masked; `column` (from 1) and `width` mark the place in `text`."""

    text: str
    column: int
    width: int

    def __str__(self) -> str:
        pad = "".join("\t" if char == "\t" else " " for char in self.text[: self.column - 1])
        return f"{self.text}\n{pad}{'^' * max(1, self.width)}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem that knows its key, not yet its place in a file. `at_key`: the key is wrong, not its value."""

    path: KeyPath
    message: str
    hint: str = ""
    value: str | None = None
    severity: Literal["error", "warning"] = "error"
    at_key: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding at its place. Lines and columns count from 1; both are 0 where there is no file."""

    source: str
    line: int
    column: int
    key: str
    message: str
    hint: str = ""
    value: str | None = None
    """The value as found, for people and programs; masked if it may be a secret."""
    severity: Literal["error", "warning"] = "error"
    excerpt: Excerpt | None = None

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}:{self.column}" if self.line else self.source
        key = f"{self.key}: " if self.key else ""
        hint = f" ({self.hint})" if self.hint else ""
        label = "warning: " if self.severity == "warning" else ""
        return f"{place}: {label}{key}{self.message}{hint}"

    def as_dict(self) -> dict[str, str | int | None]:
        return {
            "severity": self.severity,
            "file": self.source,
            "line": self.line,
            "column": self.column,
            "key": self.key,
            "value": self.value,
            "message": self.message,
            "hint": self.hint,
        }


class ConfigError(Exception):
    """The configuration is not usable; `problems` says all that is wrong with it, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: (problem.line, problem.column))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def dotted(path: KeyPath) -> str:
    """`("auth", "keys", 0, "name")` as `auth.keys[0].name`; keys with dots of their own are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        shown = f'"{part}"' if "." in part or " " in part or not part else part
        text += f".{shown}" if text else shown
    return text


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`did you mean "x"?`, or what there is to choose from, or nothing."""
    names = list(choices)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f'did you mean "{close[0]}"?'
    if not names:
        return ""
    shown = ", ".join(sorted(names)[:12])
    return f"there is: {shown}{', …' if len(names) > 12 else ''}"
