"""`headrace version`."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from importlib.util import find_spec

import typer

DEPENDENCIES = ("fastapi", "httptools", "msgspec", "pydantic", "typer", "uvloop", "xllamacpp")


def version(as_json: bool = typer.Option(False, "--json", help="As a JSON object.")) -> None:
    """Print the versions of Headrace, of Python, and of what they run on."""
    facts = {
        "headrace": metadata.version("headrace"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "compiled": "yes" if _compiled("gateway.relay") else "no",
    }
    dependencies = {name: _installed(name) for name in DEPENDENCIES}
    if as_json:
        typer.echo(json.dumps({**facts, "dependencies": dependencies}, indent=2))
        return
    for name, value in {**facts, **{name: value or "not installed" for name, value in dependencies.items()}}.items():
        typer.echo(f"{name:<10} {value}")


def print_and_exit(wanted: bool) -> None:
    """The callback of `--version`."""
    if wanted:
        typer.echo(metadata.version("headrace"))
        raise typer.Exit


def _compiled(module: str) -> bool:
    found = find_spec(module)
    return found is not None and not str(found.origin).endswith(".py")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
