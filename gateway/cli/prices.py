"""`headrace prices`: what models cost, as this release and the configuration know it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gateway.cli.output import refuse

if TYPE_CHECKING:
    from gateway.prices import Price, PriceTable

_KINDS = ("input", "cached_input", "cache_write", "output", "reasoning", "batch")


def prices(
    config: Path | None = typer.Option(
        None, "--config", "-c", envvar="HEADRACE_CONFIG", help="A configuration whose `prices` come before these."
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON object; prices are strings, for they are exact."),
) -> None:
    """List what models cost, in USD for a million tokens, and where the prices were read. Asks no network."""
    from gateway.config.load import load
    from gateway.config.problems import ConfigError
    from gateway.prices import PriceTable, shipped
    from gateway.prices.overrides import overrides_of

    try:
        table = PriceTable(shipped(), overrides_of(load(config).config) if config is not None else {})
    except ConfigError as error:
        refuse(error)
    models = {**table.table.models, **table.overrides}
    if as_json:
        typer.echo(json.dumps(_document(table, models), indent=2))
        return
    for line in _lines(table, models):
        typer.echo(line)


def _document(table: PriceTable, models: dict[str, Price]) -> dict[str, object]:
    import msgspec

    return {
        "version": table.table.version,
        "currency": table.table.currency,
        "per_tokens": table.table.per_tokens,
        "sources": msgspec.to_builtins(table.table.sources),
        "models": {name: msgspec.to_builtins(price) for name, price in models.items()},
    }


def _lines(table: PriceTable, models: dict[str, Price]) -> list[str]:
    width = max(map(len, models))
    lines = [f"{'model':<{width}}" + "".join(f"  {kind.replace('_', ' '):>12}" for kind in _KINDS) + "  source"]
    for name, price in models.items():
        shown = [getattr(price, kind) for kind in _KINDS]
        cells = "".join(f"  {'' if one is None else f'{one:f}':>12}" for one in shown)
        lines.append(f"{name:<{width}}{cells}  {price.source}")
        if price.long_context is not None:
            over = f"  prompts over {price.long_context.over_tokens:,} tokens"
            shown = [getattr(price.long_context, kind, None) for kind in _KINDS]
            lines.append(f"{over:<{width}}" + "".join(f"  {'' if one is None else f'{one:f}':>12}" for one in shown))
    lines.append(f"\nversion {table.table.version}, {table.table.currency} for a million tokens; batch: share of these")
    return lines + [f"{name}: {source.what}; read {source.read}" for name, source in table.table.sources.items()]
