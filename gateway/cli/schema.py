"""`headrace schema`: the configuration's JSON Schema, for editors."""

from __future__ import annotations

import json

import typer


def schema() -> None:
    """Print the JSON Schema of the configuration.

    Save it beside the file and begin the file with `# yaml-language-server: $schema=headrace.schema.json`: editors
    then complete, explain and check every key.
    """
    from gateway.config.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
