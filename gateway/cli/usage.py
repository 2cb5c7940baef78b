"""`headrace usage`: who used what, and what it cost. Reads the database; no gateway needs to run."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gateway.cli.durable import CONFIG, actor, opened
from gateway.cli.output import refuse, say

if TYPE_CHECKING:
    from rich.table import Table

    from gateway.config import Config
    from gateway.database import Database
    from gateway.usage.recompute import Named, Recomputed
    from gateway.usage.report import By, Query, Report

_DAY = ["%Y-%m-%d"]
_PIPE_WIDTH = 200
_SHOWN = 5


def usage(
    config: Path = CONFIG,
    by: str = typer.Option(
        "tenant", help="What to group by: day, month, tenant, team, key, deployment, variant; several with commas."
    ),
    since: datetime.datetime | None = typer.Option(None, "--from", formats=_DAY, help="First day, in UTC."),
    until: datetime.datetime | None = typer.Option(None, "--to", formats=_DAY, help="Last day, in UTC."),
    tenant: str | None = typer.Option(None, help="Calls of this organisation alone."),
    team: str | None = typer.Option(None, help="Calls of this team alone; '' for those of none."),
    key: str | None = typer.Option(None, help="Calls of keys with this name alone."),
    deployment: str | None = typer.Option(None, help="Calls to this deployment alone."),
    request_id: str | None = typer.Option(None, help="What is kept of the calls with this x-request-id, as JSON."),
    content: bool = typer.Option(
        False, "--content", help="With --request-id: prompt and answer instead, as far as the content log has them."
    ),
    as_csv: bool = typer.Option(False, "--csv", help="CSV with a head."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object; money is text, for it is exact."),
    again: bool = typer.Option(
        False, "--recompute", help="Reckon every call anew from its tokens and the prices kept with it, and compare."
    ),
) -> None:
    """Show calls, tokens and money, summed exactly.

    Calls of the last second or two may be missing: they are on their way into the database. Exit status 1: it cannot
    be read, or with --recompute the sums are not the same.
    """
    from gateway.usage.lookup import calls_of
    from gateway.usage.report import Query, csv_of, report

    if as_csv and (as_json or again):
        raise typer.BadParameter("--csv goes with neither --json nor --recompute")
    query = Query(
        by=_groups(by), since=_day(since), until=_day(until), tenant=tenant, team=team, key=key, deployment=deployment
    )
    if content:
        _show_content(config, request_id)
        return
    with opened(config) as database:
        if request_id is not None:
            typer.echo(calls_of(database, request_id, tenant).model_dump_json(indent=2))
            return
        if again:
            _recompute(_config(config), database, query, as_json=as_json)
            return
        found = report(database, query)
    if as_json:
        typer.echo(found.model_dump_json(indent=2, exclude_none=True))
    elif as_csv:
        typer.echo(csv_of(found), nl=False)
    else:
        _print(table(found))


def _show_content(path: Path, request_id: str | None) -> None:
    """One JSON object a line. That somebody read it is in the audit log first, where there is a database."""
    from gateway.usage.content import read
    from gateway.usage.sealed import Unreadable

    if request_id is None:
        raise typer.BadParameter("--content needs --request-id")
    config = _config(path)
    if config.content_log is None:
        say(f"{path}: there is no `content_log`, so that no content is kept")
        raise typer.Exit(1)
    if config.database is not None:
        _note_reading(path, request_id)
    try:
        found = list(read(config.content_log, request_id))
    except (Unreadable, ImportError, OSError) as error:
        say(f"{error}")
        raise typer.Exit(1) from None
    if not found:
        say(f"nothing is kept of the content of request {request_id!r}")
        raise typer.Exit(1)
    for text in found:
        typer.echo(text.decode())


def _note_reading(path: Path, request_id: str) -> None:
    from gateway.directory.audit import Event, append

    with opened(path) as database, database.write() as connection:
        append(connection, actor(), Event("content.read", request_id))


def table(found: Report) -> Table:
    """For people; the last line is the total."""
    from rich.table import Table

    from gateway.usage.report import Query

    columns = Query(by=tuple(found.by)).columns
    shown = Table(box=None, pad_edge=False, show_footer=bool(columns))
    for name in columns:
        shown.add_column(name.replace("_", " ").upper(), footer="total" if name == columns[0] else "")
    sums = ("calls", "refused", "failed", "prompt_tokens", "cached_tokens", "completion_tokens", "unpriced", "usd")
    for name in sums:
        value = getattr(found.total, name)
        title = name.replace("_tokens", "").upper()
        shown.add_column(title, footer=_cell(value), justify="right", no_wrap=True)
    for line in found.lines if columns else [found.total]:
        shown.add_row(*(getattr(line, name) for name in columns), *(_cell(getattr(line, name)) for name in sums))
    return shown


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _recompute(config: Config, database: Database, query: Query, *, as_json: bool) -> None:
    from gateway.usage.recompute import recompute
    from gateway.usage.record import pricing_of

    found = recompute(database, query, pricing_of(config).version)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        for line in _sentences(found):
            typer.echo(line)
    if found.missing or found.wrong.calls or found.difference_usd.strip("-0."):
        raise typer.Exit(1)


def _sentences(found: Recomputed) -> Iterator[str]:
    yield f"{found.calls:,} calls cost {found.usd} USD as summed, {found.recomputed_usd} USD as recomputed"
    yield "the sums are the same" if not found.difference_usd.strip("-0.") else f"difference {found.difference_usd} USD"
    if found.since is not None:
        yield f"records before {found.since} were deleted (database.usage_days): their sums are not compared"
    if found.missing:
        yield f"{found.missing:,} calls were summed, and their records are gone"
    if found.wrong.calls:
        yield f"{_named(found.wrong)}: their records say another amount than their tokens and prices come to"
    if found.not_kept.calls:
        yield f"{_named(found.not_kept)}: the prices that they were reckoned by are not kept; taken as recorded"
    for version, named in found.other_versions.items():
        yield f"{_named(named)}: reckoned by prices of version {version}; those of now are {found.version}"


def _named(named: Named) -> str:
    first = ", ".join(named.ids[:_SHOWN])
    return f"{named.calls:,} calls ({first}{', …' if named.calls > _SHOWN else ''})"


def _groups(text: str) -> tuple[By, ...]:
    from gateway.usage.report import By

    try:
        return tuple(dict.fromkeys(By(part.strip()) for part in text.split(",") if part.strip()))
    except ValueError:
        raise typer.BadParameter(f"{text!r}: it takes {', '.join(By)}", param_hint="--by") from None


def _day(given: datetime.datetime | None) -> datetime.date | None:
    return None if given is None else given.date()


def _config(path: Path) -> Config:
    from gateway.config.load import load
    from gateway.config.problems import ConfigError

    try:
        return load(path).config
    except ConfigError as error:
        refuse(error)


def _print(shown: Table) -> None:
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
    console.print(shown)
