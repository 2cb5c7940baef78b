"""`headrace check`: is the configuration right, and what does it come to?"""

from __future__ import annotations

import json
from pathlib import Path

import typer

from gateway.cli.output import refuse, say, show_problems


def check(
    config: Path = typer.Argument(Path("headrace.yaml"), envvar="HEADRACE_CONFIG", help="The file to check."),
    as_json: bool = typer.Option(False, "--json", help="Problems and effective values as one JSON object."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print problems only."),
) -> None:
    """Check a configuration, and print what it comes to with all defaults filled in.

    Nothing is started and no engine is asked. Secrets are masked. Exit status 0: usable; 1: not.
    """
    from gateway.config.dump import effective, to_yaml
    from gateway.config.load import load
    from gateway.config.problems import ConfigError

    try:
        loaded = load(config)
    except ConfigError as error:
        if not as_json:
            refuse(error)
        typer.echo(json.dumps({"ok": False, "problems": [one.as_dict() for one in error.problems]}, indent=2))
        raise typer.Exit(1) from None
    values = effective(loaded.config)
    if as_json:
        warnings = [one.as_dict() for one in loaded.warnings]
        typer.echo(json.dumps({"ok": True, "problems": warnings, "config": values}, indent=2))
        return
    show_problems(loaded.warnings)
    if not quiet:
        typer.echo(to_yaml(values), nl=False)
    say(f"{config}: ok")
