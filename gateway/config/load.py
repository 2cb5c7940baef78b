"""Reading a configuration: text to a checked `Config`, or a `ConfigError` that says all that is wrong and where."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from gateway.config import Config
from gateway.config.checks import check
from gateway.config.excerpt import Excerpts
from gateway.config.explain import SECRET_NAME, SECRET_TEXT, findings
from gateway.config.problems import MASK, ConfigError, Excerpt, Finding, KeyPath, Problem, dotted
from gateway.config.types import expected_at, typed
from gateway.config.yaml import Document, Span, YamlSyntaxError, read_yaml


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A usable configuration, what is odd about it, and the file it came from."""

    config: Config
    warnings: tuple[Problem, ...]
    source: Path | None


def load_config(path: Path | str, env: Mapping[str, str] = os.environ) -> Config:
    """Read and check a file.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong.
    """
    return load(path, env).config


def load(path: Path | str, env: Mapping[str, str] = os.environ) -> LoadedConfig:
    """Like `load_config`, with the warnings."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        problem = Problem(str(path), 0, 0, "", f"cannot be read: {error.strerror}", "name a YAML file that exists")
        raise ConfigError([problem]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), 0, 0, "", f"is not UTF-8 at byte {error.start}")]) from None
    config, warnings = _parse(text, str(path), env)
    return LoadedConfig(config, warnings, file)


def parse_config(text: str, source: str = "<string>", env: Mapping[str, str] = os.environ) -> Config:
    """Check a configuration that is not in a file. Raises like `load_config`."""
    return _parse(text, source, env)[0]


def load_text(text: str, source: str, env: Mapping[str, str] = os.environ) -> LoadedConfig:
    """Like `parse_config`, with the warnings."""
    return LoadedConfig(*_parse(text, source, env), None)


def override(config: Config, values: Mapping[KeyPath, object], source: str = "command line") -> Config:
    """A copy with some values replaced, checked again as a whole.

    Raises:
        ConfigError: the result is not usable.
    """
    tree: dict[str, object] = config.model_dump(exclude_unset=True)
    for path, value in values.items():
        _put(tree, path, value)
    try:
        result = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError([_unplaced(found, source) for found in findings(error, {})]) from None
    errors = [_unplaced(found, source) for found in check(result) if found.severity == "error"]
    if errors:
        raise ConfigError(errors)
    return result


def _put(tree: dict[str, object], path: KeyPath, value: object) -> None:
    for part in path[:-1]:
        below = tree.setdefault(str(part), {})
        if not isinstance(below, dict):
            below = tree[str(part)] = {}
        tree = below
    tree[str(path[-1])] = value


def _unplaced(found: Finding, source: str) -> Problem:
    found = _masked(found, ())
    return Problem(source, 0, 0, dotted(found.path), found.message, found.hint, found.value, found.severity)


def _parse(text: str, source: str, env: Mapping[str, str]) -> tuple[Config, tuple[Problem, ...]]:
    try:
        document = read_yaml(text, source, env)
    except YamlSyntaxError as error:
        raise ConfigError([_syntax_problem(error, text, source)]) from None
    value = {} if document.value is None else _typed(document.value, (), document)
    found = list(document.findings)
    broken = {finding.path for finding in found}
    config: Config | None = None
    try:
        config = Config.model_validate(value, strict=True)
    except ValidationError as error:
        found += [one for one in findings(error, document.variables) if not _follows(one, broken)]
    if config is not None:
        found += [one for one in check(config, document.variables) if not _follows(one, broken)]
    excerpts = Excerpts(document)
    problems = _once(_placed(one, document, excerpts) for one in found)
    errors = [problem for problem in problems if problem.severity == "error"]
    if config is None or errors:
        raise ConfigError(errors)
    return config, tuple(problems)


def _follows(finding: Finding, broken: Collection[KeyPath]) -> bool:
    """Whether it may be there only because a value at its place, or within it, could not be read."""
    depth = len(finding.path)
    return depth > 0 and any(path[:depth] == finding.path for path in broken)


def _once(problems: Iterable[Problem]) -> list[Problem]:
    """What an anchor brings to several places is told once."""
    seen: dict[tuple[int, int, str], Problem] = {}
    for problem in problems:
        seen.setdefault((problem.line, problem.column, problem.message), problem)
    return list(seen.values())


def _typed(value: object, path: KeyPath, document: Document) -> object:
    """The tree with each text that came from variables turned into the type its place takes."""
    if isinstance(value, dict):
        return {key: _typed(child, (*path, key), document) for key, child in value.items()}
    if isinstance(value, list):
        return [_typed(child, (*path, index), document) for index, child in enumerate(value)]
    if isinstance(value, str) and path in document.variables:
        where = expected_at(path)
        return typed(value, where) if where else value
    return value


def _masked(found: Finding, variables: tuple[str, ...]) -> Finding:
    """Without what looks like a secret, and without the value of a variable that is called like one."""
    message, value = found.message, found.value
    if value and any(map(SECRET_NAME.search, variables)):
        message, value = message.replace(value, MASK), MASK
    return dataclasses.replace(
        found,
        message=SECRET_TEXT.sub(MASK, message),
        hint=SECRET_TEXT.sub(MASK, found.hint),
        value=value and SECRET_TEXT.sub(MASK, value),
    )


def _placed(found: Finding, document: Document, excerpts: Excerpts) -> Problem:
    found = _masked(found, document.variables.get(found.path, ()))
    span = _span(found, document)
    return Problem(
        document.source,
        span.line + 1,
        span.column + 1,
        dotted(found.path),
        found.message,
        found.hint,
        found.value,
        found.severity,
        excerpts.at(span),
    )


def _span(found: Finding, document: Document) -> Span:
    """The place of a finding; of its nearest parent if the key itself is not in the file."""
    path = found.path
    if not found.at_key and path in document.values:
        return document.values[path]
    while path:
        if path in document.keys:
            return document.keys[path]
        if path in document.values:
            return document.values[path]
        path = path[:-1]
    return Span(0, 0, 0, 0)


def _syntax_problem(error: YamlSyntaxError, text: str, source: str) -> Problem:
    lines = text.splitlines()
    number = min(error.line, max(0, len(lines) - 1))
    excerpt, hint = None, ""
    if lines:
        line = lines[number]
        if "${" in line and "{" in line.replace("${", ""):
            hint = "between { and } a ${VAR} needs quotes"
        # What is key and what is secret is unknown here, so that only the shape of the values is shown.
        colon = line.find(":") + 1
        excerpt = Excerpt(line[:colon] + re.sub(r"\w", "*", line[colon:]), error.column + 1, 1)
    return Problem(source, number + 1, error.column + 1, "", f"not valid YAML: {error}", hint, excerpt=excerpt)
