"""`headrace engines`: what an engine is and can do."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import typer

from gateway.cli.output import say

if TYPE_CHECKING:
    from engines.probe import Report

app = typer.Typer(
    name="engines",
    help="Find out what an engine is and can do.",
    no_args_is_help=True,
    add_completion=False,
)
_ANSWERS = {True: "yes", False: "no", None: "not clear"}
_SHOWN_MODELS = 10


@app.callback()
def _group() -> None:
    """Find out what an engine is and can do."""


@app.command()
def probe(
    url: str = typer.Argument(help="Of the engine; what comes before /v1, as in a pool's `urls`."),
    key: str | None = typer.Option(
        None, envvar="HEADRACE_ENGINE_KEY", show_envvar=True, help="Sent as a bearer token. Others see arguments."
    ),
    model: str | None = typer.Option(None, help="To ask for; without it the first that the engine lists."),
    ca_file: str | None = typer.Option(None, help="PEM bundle to trust for https, instead of the system's."),
    look_only: bool = typer.Option(False, "--look-only", help="Send no request that costs tokens."),
    timeout: float = typer.Option(60.0, min=0.01, help="Seconds to wait for each answer."),
    as_json: bool = typer.Option(False, "--json", help="The result as one JSON object."),
) -> None:
    """Ask a running engine what it is, and print the configuration for it.

    Says kind, version, models and context length, and whether chat, streams, usage in streams, tools, embeddings and
    tokenizing work, by a few requests of some tokens each. What could not be told is said as well.
    Exit status 0: it answered; 1: it cannot be reached, or wants a key.
    """
    from engines.probe import ProbeError
    from engines.probe import probe as probe_engine
    from gateway.config import without_version

    if not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", url):
        raise typer.BadParameter(f"{url!r} is not of the form http://HOST:PORT", param_hint="url")
    headers = {"authorization": f"Bearer {key}"} if key else None
    asking = probe_engine(
        without_version(url),
        headers=headers,
        ca_file=ca_file,
        model=model,
        generate=not look_only,
        timeout_s=timeout,
    )
    try:
        report = asyncio.run(asking)
    except (ProbeError, OSError) as error:
        if as_json:
            typer.echo(json.dumps({"url": url, "error": str(error)}))
        say(f"error: {error}")
        raise typer.Exit(1) from None
    typer.echo(_as_json(report, keyed=bool(key)) if as_json else _as_text(report, keyed=bool(key)))


def _as_json(report: Report, *, keyed: bool) -> str:
    import msgspec

    tree = msgspec.to_builtins(report)
    return json.dumps({**tree, "unknown": report.unknown, "yaml": suggestion(report, keyed=keyed)}, indent=2)


def _as_text(report: Report, *, keyed: bool) -> str:
    by = f"  ({', '.join(report.evidence)})" if report.evidence else ""
    lines = [f"{report.title} {report.version}".rstrip() + by]
    if report.tested and report.version and report.tested != report.version:
        lines.append(f"  headrace's own tests ran {report.tested}")
    for card in report.models[:_SHOWN_MODELS]:
        length = f", context of {card.context_tokens} tokens" if card.context_tokens else ""
        lines.append(f"  model {card.id}{length}")
    if len(report.models) > _SHOWN_MODELS:
        lines.append(f"  … and {len(report.models) - _SHOWN_MODELS} more models")
    width = max((len(name) for name in report.abilities), default=0)
    for name, ability in report.abilities.items():
        detail = f"  {ability.detail}" if ability.detail else ""
        lines.append(f"  {name:<{width}}  {_ANSWERS[ability.able]:<9}{detail}".rstrip())
    if report.unknown:
        lines.append(f"  could not be told: {', '.join(report.unknown)}")
    return "\n".join([*lines, "", suggestion(report, keyed=keyed)])


def suggestion(report: Report, *, keyed: bool) -> str:
    """YAML to be pasted into a configuration."""
    key = ", api_key: '${ENGINE_API_KEY}'" if keyed else ""
    names = [card.id for card in report.models[:_SHOWN_MODELS]] or ["MODEL"]
    lines = [
        "pools:",
        f"  {report.server}:",
        f"    engine: {{kind: {report.kind}{key}}}",
        f"    urls: [{json.dumps(report.url)}]",
        "deployments:",
    ]
    for name in names:
        called = re.sub(r"[^A-Za-z0-9._:/@+-]", "-", name.rstrip("/").rpartition("/")[2]) or "model"
        model = f", model: {json.dumps(name)}" if called != name else ""
        lines.append(f"  {json.dumps(called)}: {{variants: {{default: {{pools: [{report.server}]{model}}}}}}}")
    return "\n".join(lines)
