"""`headrace models`: what the embedded engine can run and what compares questions, and fetching it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gateway.cli.output import say

if TYPE_CHECKING:
    from engines.models import Progress

app = typer.Typer(
    name="models",
    help="Fetch models for the embedded engine and the response cache, and see which there are.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def pull(
    model: str = typer.Argument(
        help="A name from `headrace models list`, the path of a GGUF file, "
        "hf:OWNER/REPO/FILE.gguf, or OWNER/REPO:QUANTIZATION; both take @REVISION at the end."
    ),
    as_json: bool = typer.Option(False, "--json", help="The result as one JSON object."),
) -> None:
    """Fetch a model unless it is already here, and print where it is.

    What an interrupted fetch left is used again, and the checksum is verified. Files are kept in
    $HEADRACE_CACHE, by default ~/.cache/headrace. Needs no account; HF_TOKEN and HF_ENDPOINT are honoured.
    """
    from engines.models import ModelError
    from gateway.cli.progress import fetch_progress

    try:
        with fetch_progress() as progress:
            path = _pulled(model, progress)
    except ModelError as error:
        if as_json:
            typer.echo(json.dumps({"model": model, "error": str(error)}))
        say(f"error: {error}")
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps({"model": model, "path": str(path), "size_bytes": _size_bytes(path)}))
    else:
        typer.echo(path)


def _pulled(model: str, progress: Progress) -> Path:
    from engines.models import pull as pull_model
    from gateway.caching.models import CATALOG, pull_weights

    if (weights := CATALOG.get(model)) is not None:
        return pull_weights(weights, progress)
    return pull_model(model, progress=progress)


def _size_bytes(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.suffix != ".lock")


@app.command("list")
def list_(as_json: bool = typer.Option(False, "--json", help="One JSON array.")) -> None:
    """List the models that have a short name, and those fetched from Hugging Face. Asks no network."""
    from engines.models import list_models
    from gateway.caching.models import list_weights

    known = [*list_models(), *list_weights()]
    if as_json:
        rows = [
            {
                "name": one.name,
                "size_bytes": one.size_bytes,
                "licence": one.licence,
                "cached": one.path is not None,
                "path": str(one.path) if one.path else None,
            }
            for one in known
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    width = max(len(one.name) for one in known)
    for one in known:
        where = one.path or f"not fetched; headrace models pull {one.name}"
        typer.echo(f"{one.name:<{width}}  {one.size_bytes / 1e6:>9,.1f} MB  {one.licence:<12}  {where}")
