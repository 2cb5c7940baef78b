"""How commands talk: problems like a compiler's, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from gateway.config.problems import ConfigError, Problem

_COLORS = {"error": typer.colors.RED, "warning": typer.colors.YELLOW}

MAX_SHOWN = 50


def say(message: str) -> None:
    typer.echo(message, err=True)


def show_problems(problems: Iterable[Problem]) -> None:
    """One line each; in a terminal the source line with a caret under it as well. At most `MAX_SHOWN` of them."""
    terminal = sys.stderr.isatty()
    found = list(problems)
    for problem in found[:MAX_SHOWN]:
        if not terminal:
            say(str(problem))
            continue
        color = _COLORS[problem.severity]
        place, _, rest = str(problem).partition(": ")
        say(f"{typer.style(place, bold=True)}: {rest}")
        if problem.excerpt is not None:
            text, caret = str(problem.excerpt).split("\n")
            say(f"    {text}\n    {typer.style(caret, fg=color)}")
    if len(found) > MAX_SHOWN:
        say(f"… and {len(found) - MAX_SHOWN} more; `headrace check --json` lists all")


def refuse(error: ConfigError) -> NoReturn:
    """Show what is wrong and leave with 1."""
    show_problems(error.problems)
    errors = sum(problem.severity == "error" for problem in error.problems)
    say(f"{errors} error{'s' if errors != 1 else ''}")
    raise typer.Exit(1)
