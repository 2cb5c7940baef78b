"""YAML text to plain values that know their place: line, column, and which variables they came from.

The schema is YAML 1.2 core: `off`, `yes`, `010` and `12:30` are words and a ten, not booleans, octal and base 60.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from gateway.config.problems import Finding, KeyPath

MAX_VALUES = 200_000
"""Values in one file after anchors are expanded: stops a file that grows without end from a few lines."""

_BASE: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"


class _Loader(_BASE):  # type: ignore[misc]  # the class is chosen at import: C if PyYAML has it
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # PyYAML's own attribute


_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)

_Loader.add_implicit_resolver(_TAG + "null", _NULL, ["~", "n", "N", ""])
_Loader.add_implicit_resolver(_TAG + "bool", _BOOL, list("tTfF"))
_Loader.add_implicit_resolver(_TAG + "int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver(_TAG + "merge", re.compile(r"^(?:<<)$"), ["<"])

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Span:
    """Where a node stands. Lines and columns from 0; the end is exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(slots=True)
class Document:
    """A file, read. `keys` and `values` hold the place of every key and value by its path."""

    source: str
    lines: list[str]
    value: object = None
    keys: dict[KeyPath, Span] = field(default_factory=dict)
    values: dict[KeyPath, Span] = field(default_factory=dict)
    variables: dict[KeyPath, tuple[str, ...]] = field(default_factory=dict)
    """Values that were written with variables, and the names of those."""
    findings: list[Finding] = field(default_factory=list)


class YamlSyntaxError(Exception):
    """The text is not YAML. Line and column from 0."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


def read_yaml(text: str, source: str, env: Mapping[str, str] | None) -> Document:
    """Read one YAML document.

    Args:
        text: the file.
        source: its name, for messages.
        env: variables for `${VAR}` and `os.environ/VAR`; None leaves them as they are written.

    Raises:
        YamlSyntaxError: the text is not YAML, or holds more than one document.
    """
    document = Document(source, text.splitlines())
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        context = f"{error.context}: " if error.context else ""
        raise YamlSyntaxError(
            f"{context}{error.problem}", mark.line if mark else 0, mark.column if mark else 0
        ) from None
    except RecursionError:
        raise YamlSyntaxError("it is nested too deeply", 0, 0) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        raise YamlSyntaxError(f"character #x{ord(str(error.character)):04x} is not allowed", line, 0) from None
    if node is not None:
        document.value = _Reader(document, env).value(node, ())
    return document


class _Reader:
    """Turns nodes into values. One per document."""

    def __init__(self, document: Document, env: Mapping[str, str] | None) -> None:
        self._document = document
        self._env = env
        self._open: set[int] = set()
        self._left = MAX_VALUES

    def value(self, node: yaml.Node, path: KeyPath) -> object:
        self._document.values[path] = _span(node)
        self._left -= 1
        if self._left < 0:
            if self._left == -1:
                self._refuse(path, f"anchors expand to more than {MAX_VALUES:,} values")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            self._refuse(path, "the anchor holds itself")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.discard(id(node))

    def _refuse(self, path: KeyPath, message: str, hint: str = "", *, at_key: bool = False) -> None:
        self._document.findings.append(Finding(path, message, hint, at_key=at_key))

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, object]:
        result: dict[str, object] = {}
        own: set[str] = set()
        for key_node, value_node, merged in self._pairs(node, path):
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(path, "a key is a list or a mapping", "keys are plain words")
                continue
            key = str(key_node.value)
            here = (*path, key)
            if merged and key in result:
                continue
            if key in own:
                first = self._document.keys[here]
                self._document.keys[here] = _span(key_node)
                self._refuse(
                    here, f'the key "{key}" stands twice', f"first in line {first.line + 1}; keep one", at_key=True
                )
                continue
            if not merged:
                own.add(key)
            self._document.keys[here] = _span(key_node)
            result[key] = self.value(value_node, here)
        return result

    def _pairs(self, node: yaml.Node, path: KeyPath) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
        """Own pairs first, then those of `<<` merges, which own ones override."""
        merges: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merges.extend(value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node])
            else:
                yield key_node, value_node, False
        for merge in merges:
            if not isinstance(merge, yaml.MappingNode):
                self._refuse((*path, "<<"), "`<<` merges something that is not a mapping", "write `<<: *anchor`")
            elif id(merge) in self._open:
                self._refuse(path, "`<<` merges a mapping into itself")
            else:
                self._open.add(id(merge))
                try:
                    yield from ((key, value, True) for key, value, _ in self._pairs(merge, path))
                finally:
                    self._open.discard(id(merge))

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Scalar:
        kind = node.tag.removeprefix(_TAG)
        text = str(node.value)
        if kind == "str":
            return self._substituted(text, path)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        try:
            if kind == "int":
                return int(text, 0) if text[:2] in {"0x", "0o"} else int(text)
            if kind == "float":
                return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            pass
        self._refuse(path, f"the tag {node.tag.replace(_TAG, '!!')} is not supported here", "take the tag away")
        return text

    def _substituted(self, text: str, path: KeyPath) -> str:
        if self._env is None or ("$" not in text and not text.startswith("os.environ/")):
            return text
        result = substitute(text, self._env)
        if result.variables:
            self._document.variables[path] = result.variables
        for name in result.unset:
            self._refuse(
                path,
                f"the environment variable {name} is not set",
                f"export {name}, or give a default: ${{{name}:-…}}",
            )
        if result.malformed:
            self._refuse(
                path,
                "a `${` here is not a variable",
                "write ${VAR}, ${VAR:-default}, or $${ for a literal ${",
            )
        return result.text


def _span(node: yaml.Node) -> Span:
    start, end = node.start_mark, node.end_mark
    return Span(start.line, start.column, end.line, end.column)


@dataclass(frozen=True, slots=True)
class Substituted:
    text: str
    variables: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()
    malformed: bool = False


_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_VARIABLE = re.compile(
    rf"(?P<escape>\$\$\{{)|\$\{{(?P<name>{_NAME})(?::-(?P<default>(?:\$\{{[^{{}}]*\}}|[^{{}}])*))?\}}|(?P<bad>\$\{{)"
)
_ENVIRON = re.compile(rf"^os\.environ/(?P<name>{_NAME})$")


def substitute(text: str, env: Mapping[str, str]) -> Substituted:
    """Replace `${VAR}`, `${VAR:-default}` (unset or empty) and a whole `os.environ/VAR`; `$${` stands for `${`."""
    whole = _ENVIRON.match(text)
    if whole:
        text = f"${{{whole['name']}}}"
    used: list[str] = []
    unset: list[str] = []
    malformed = False

    def replace(match: re.Match[str]) -> str:
        nonlocal malformed
        if match["escape"]:
            return "${"
        if match["bad"]:
            malformed = True
            return "${"
        name, default = match["name"], match["default"]
        used.append(name)
        value = env.get(name)
        if default is not None:
            return value or _VARIABLE.sub(replace, default)
        if value is None:
            unset.append(name)
            return ""
        return value

    result = _VARIABLE.sub(replace, text)
    return Substituted(result, tuple(used), tuple(dict.fromkeys(unset)), malformed)
