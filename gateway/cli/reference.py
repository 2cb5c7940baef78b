"""The reference pages, made from the code: `python -m gateway.cli.reference config|cli|write`."""

from __future__ import annotations

import enum
import inspect
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from gateway.cli.root import app, real_command
from gateway.config import Config
from gateway.config.explain import pattern_rule
from gateway.config.types import constraint, expected

DOCS = Path(__file__).parents[2] / "docs" / "reference"
_WRITTEN = "<!-- Written by `python -m gateway.cli.reference write`; edit the code instead. -->\n"
_PLAIN = {
    Any: "any value",
    int: "whole number",
    float: "number",
    Decimal: "number",
    bool: "true or false",
    str: "text",
    SecretStr: "secret",
}
_VALUES = {int: "NUMBER", float: "NUMBER", Path: "PATH"}
_LIMITS = (
    ("gt", "more than {}"),
    ("ge", "at least {}"),
    ("lt", "less than {}"),
    ("le", "at most {}"),
    ("min_length", "at least {} long"),
    ("max_length", "at most {} long"),
)

_CONFIG_INTRO = f"""{_WRITTEN}
# Configuration

One YAML file. `headrace check FILE` says whether it is right and what it comes to; `headrace schema` gives editors the
JSON Schema. Keys that are not listed here are refused.

Any value may come from the environment: `${{VAR}}`, `${{VAR:-default}}` (also when `VAR` is empty), or `os.environ/VAR`
as the whole value; `$${{` stands for a literal `${{`. Inside `{{ … }}` and `[ … ]` such a value needs quotes. A
variable that is not set and has no default is an error. Relative paths start at the working directory.

Times are in seconds, sizes in bytes. *Required* keys have no default; all others may be left out.
"""

_CLI_INTRO = f"""{_WRITTEN}
# Command line

Exit status: 0 all is well; 1 a problem, told on standard error; 2 the command was called in a wrong way.
`headrace --install-completion` sets up completion for the current shell. Every command has `--help` and `-h`.
"""


def config_page() -> str:
    """Every key of the configuration, as Markdown."""
    return _CONFIG_INTRO + "".join(_section(Config, "", "The file"))


def _section(model: type[BaseModel], path: str, title: str) -> Iterator[str]:
    yield f"\n## {f'`{path}`' if path else title}\n"
    if model.__doc__ and model is not Config:
        yield f"\n{_cell(model.__doc__)}\n"
    yield "\n| Key | Type | Default | Limits | Meaning |\n|---|---|---|---|---|\n"
    below: list[tuple[type[BaseModel], str]] = []
    for name, info in model.model_fields.items():
        where = f"{path}.{name}" if path else name
        cells = (f"`{name}`", _type(info.annotation), _default(info), _limits(info), _cell(info.description or ""))
        yield f"| {' | '.join(cells)} |\n"
        below += _models(info.annotation, where)
    for child, where in below:
        yield from _section(child, where, "")


def _models(annotation: object, path: str) -> Iterator[tuple[type[BaseModel], str]]:
    for kind in expected(annotation).kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind, path
        elif get_origin(kind) is list:
            yield from _models(get_args(kind)[0], f"{path}[]")
        elif get_origin(kind) is dict:
            yield from _models(get_args(kind)[1], f"{path}.<name>")


def _type(annotation: object) -> str:
    found = expected(annotation)
    choices = ", ".join(f"`{choice}`" for choice in found.literals)
    words = [_type_of(kind) for kind in found.kinds if get_origin(kind) is not Literal]
    if choices and not words:
        return choices
    words = [choices, *words] if choices else words
    return " or ".join([*words, "none"] if found.optional else words)


def _type_of(kind: object) -> str:
    if get_origin(kind) is list:
        return f"list of {_type(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return f"mapping of names to {_type(get_args(kind)[1])}"
    return _PLAIN.get(kind, "section") if isinstance(kind, type) else "section"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "*required*"
    value = info.default
    if value is None:
        return "none"
    if isinstance(value, BaseModel) or value in ([], {}, "", SecretStr("")):
        return "" if isinstance(value, BaseModel) else "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`" if not isinstance(value, list) else f"`[{', '.join(map(str, value))}]`"


def _limits(info: FieldInfo) -> str:
    pattern = constraint(info, "pattern")
    limits = [
        words.format(f"{value:,}" if isinstance(value, int) else f"{value:g}")
        for name, words in _LIMITS
        if isinstance(value := constraint(info, name), int | float)
    ]
    if isinstance(pattern, str):
        return _cell(pattern_rule(pattern)[1])
    return ", ".join(limits)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def cli_page() -> str:
    """Every command and flag, as Markdown."""
    root = typer.main.get_command(app)
    return _CLI_INTRO + "".join(_command(root, "headrace"))


def _command(command: Any, name: str) -> Iterator[str]:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and not param.hidden]
    children = getattr(command, "commands", {})
    words = [_metavar(param) for param in arguments] + (["COMMAND"] if children else [])
    yield f"\n## `{' '.join([name, *words])}`\n\n{(command.help or '').strip()}\n"
    types = get_type_hints(inspect.unwrap(command.callback)) if command.callback and options else {}
    rows = [(_metavar(param), param) for param in arguments]
    rows += [(_flags(param, types.get(param.name, bool)), param) for param in options]
    if rows:
        yield "\n| Argument or option | Default | Meaning |\n|---|---|---|\n"
    for shown, param in rows:
        environment = f" Environment: `{param.envvar}`." if param.envvar else ""
        yield f"| `{shown}` | {_default_of(param)} | {_cell((param.help or '').split('[default:')[0])}{environment} |\n"
    for child in command.list_commands(None) if children else ():
        yield from _command(real_command(children[child]), f"{name} {child}")


def _metavar(param: Any) -> str:
    name = (param.metavar or param.name).upper()
    return name if param.required else f"[{name}]"


def _flags(param: Any, annotation: object) -> str:
    names = ", ".join([*param.opts, *param.secondary_opts])
    return names if getattr(param, "is_flag", False) else f"{names} {_value_name(annotation)}"


def _value_name(annotation: object) -> str:
    kind = expected(annotation).kinds[0]
    if get_origin(kind) is list:
        kind = get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return " \\| ".join(str(member.value) for member in kind)
    return _VALUES.get(kind, "TEXT") if isinstance(kind, type) else "TEXT"


def _default_of(param: Any) -> str:
    if param.required:
        return "*required*"
    _, told, rest = (param.help or "").partition("[default:")
    if told:
        return f"`{rest.strip(' ]')}`"
    value = param.default
    if value is None or isinstance(value, bool) or callable(value):
        return ""
    shown = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return f"`{shown}`" if shown else ""


def main(what: str) -> None:
    """Print one page, or write both."""
    pages = {"config": config_page, "cli": cli_page}
    if what in pages:
        typer.echo(pages[what](), nl=False)
        return
    DOCS.mkdir(parents=True, exist_ok=True)
    for name, page in pages.items():
        (DOCS / f"{name}.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in ("config", "cli", "write"):
        typer.echo("usage: python -m gateway.cli.reference config|cli|write", err=True)
        sys.exit(2)
    main(sys.argv[1])
