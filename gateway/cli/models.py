"""`headrace models`: what the embedded engine can run, and fetching it."""

from __future__ import annotations

import json

import typer

from gateway.cli.output import say

app = typer.Typer(
    name="models",
    help="Fetch models for the embedded engine, and see which there are.",
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
    from engines.models import pull as pull_model
    from gateway.cli.progress import fetch_progress

    try:
        with fetch_progress() as progress:
            path = pull_model(model, progress=progress)
    except ModelError as error:
        if as_json:
            typer.echo(json.dumps({"model": model, "error": str(error)}))
        say(f"error: {error}")
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps({"model": model, "path": str(path), "size_bytes": path.stat().st_size}))
    else:
        typer.echo(path)


@app.command("list")
def list_(as_json: bool = typer.Option(False, "--json", help="One JSON array.")) -> None:
    """List the models that have a short name, and those fetched from Hugging Face. Asks no network."""
    from engines.models import list_models

    known = list_models()
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
