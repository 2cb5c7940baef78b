"""`headrace import-litellm`: coming from a LiteLLM proxy."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from gateway.cli.output import refuse, say


def import_litellm(
    config: Path = typer.Argument(..., help="The config.yaml of a LiteLLM proxy."),
    output: Path | None = typer.Option(None, "--output", "-o", help="File to write; standard output without it."),
    force: bool = typer.Option(False, "--force", "-f", help="Overwrite the file if it exists."),
    as_json: bool = typer.Option(False, "--json", help="The report on standard error as a JSON object."),
) -> None:
    """Turn a LiteLLM proxy's configuration into one for Headrace.

    What could not be carried over is listed on standard error, with its line and the reason.
    """
    from gateway.config.problems import ConfigError
    from gateway.litellm.convert import convert_file

    if output is not None and output.exists() and not force:
        raise typer.BadParameter(f"{output} exists; --force overwrites it", param_hint="--output")
    try:
        result = convert_file(config)
    except ConfigError as error:
        refuse(error)
    if output is None:
        typer.echo(result.yaml, nl=False)
    else:
        output.write_text(result.yaml, encoding="utf-8")
    if as_json:
        say(json.dumps(result.as_dict(), indent=2))
        return
    for note in result.notes:
        say(str(note))
    say(f"{result.deployments} deployments carried, {len(result.notes)} notes; next: headrace check {output or 'FILE'}")
