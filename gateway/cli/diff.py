"""`headrace diff`: what a change of the file really changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gateway.cli.output import refuse

if TYPE_CHECKING:
    from gateway.config.dump import Difference

_MARKS = {"added": ("+", typer.colors.GREEN), "removed": ("-", typer.colors.RED), "changed": ("~", typer.colors.YELLOW)}


def diff(
    old: Path = typer.Argument(..., help="The configuration as it is."),
    new: Path = typer.Argument(..., help="The configuration as it would be."),
    as_json: bool = typer.Option(False, "--json", help="The differences as a JSON list."),
    exit_code: bool = typer.Option(False, "--exit-code", help="Leave with 1 if there are differences."),
) -> None:
    """Print the effective values that differ between two configurations.

    Defaults are filled in first, so that only real changes show. Secrets are compared, and masked in the output.
    """
    from gateway.config.dump import differences
    from gateway.config.load import load
    from gateway.config.problems import ConfigError

    try:
        found = differences(load(old).config, load(new).config)
    except ConfigError as error:
        refuse(error)
    show_differences(found, as_json=as_json)
    if exit_code and found:
        raise typer.Exit(1)


def show_differences(found: Sequence[Difference], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([one.as_dict() for one in found], indent=2))
        return
    for one in found:
        mark, color = _MARKS[one.kind]
        typer.echo(typer.style(f"{mark} {one}", fg=color))
