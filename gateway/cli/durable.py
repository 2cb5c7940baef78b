"""What commands that work on the database share: opening it, what its options mean, and how its refusals are told."""

from __future__ import annotations

import os
import pwd
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from gateway.cli.output import refuse, say

if TYPE_CHECKING:
    from gateway.database import Database
    from gateway.directory.audit import Actor
    from gateway.directory.store import Directory

Values = dict[str, object]

CONFIG = typer.Option(
    Path("headrace.yaml"), "--config", "-c", envvar="HEADRACE_CONFIG", help="The configuration, which names `database`."
)
AS_JSON = typer.Option(False, "--json", help="One JSON object.")
TENANT = typer.Option("", help="The organisation.")
LIMIT = typer.Option(
    [],
    metavar="NAME=VALUE",
    help="A limit, by its name under `limits` in the configuration, such as tokens_per_minute=100000 or "
    "usd_per_month=50; `none` takes it away. May be repeated.",
)
METADATA = typer.Option(
    [], metavar="NAME=TEXT", help="Anything of yours; without a text it is taken away. May be repeated."
)
_PIPE_WIDTH = 200
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@contextmanager
def opened(config: Path) -> Iterator[Database]:
    """The database of a configuration. What it or the directory refuses ends the command with 1 and the reason."""
    from pydantic import ValidationError

    from gateway.database import DatabaseError, open_database
    from gateway.directory.problems import Refused, invalid

    url = _url(config)
    try:
        database = open_database(url)
        try:
            yield database
        finally:
            database.close()
    except ValidationError as error:
        _fail(str(invalid(error)))
    except (Refused, DatabaseError) as error:
        _fail(str(error))


@contextmanager
def directory_of(config: Path) -> Iterator[Directory]:
    from gateway.directory.store import Directory

    with opened(config) as database:
        yield Directory(database)


def actor() -> Actor:
    """Who types: the user of the operating system, and on which machine."""
    from gateway.directory.audit import Actor

    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return Actor(f"os:{name}", socket.gethostname())


def limits(given: list[str]) -> Values | None:
    """What `--limit` says; None: nothing."""
    from gateway.config.limit_options import LimitOptions
    from gateway.config.problems import did_you_mean

    found: Values = {}
    for name, value in map(_pair("--limit"), given):
        if name not in LimitOptions.model_fields:
            hint = did_you_mean(name, list(LimitOptions.model_fields))
            raise typer.BadParameter(f"there is no limit {name!r}{f' ({hint})' if hint else ''}", param_hint="--limit")
        found[name] = None if value in ("none", "") else value
    return found or None


def metadata(given: list[str]) -> Values | None:
    """What `--metadata` says; None: nothing."""
    return {name: value or None for name, value in map(_pair("--metadata"), given)} or None


def _pair(option: str) -> Callable[[str], tuple[str, str]]:
    def parted(text: str) -> tuple[str, str]:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not of the form NAME=VALUE", param_hint=option)
        return name, value

    return parted


def seconds(text: str, option: str) -> float:
    """`90d`, `24h`, `15m`, `30s`, or a plain number of seconds."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)([smhd]?)", text.strip(), re.ASCII)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no time: write 90d, 24h, 15m or 30s", param_hint=option)
    return float(found[1]) * _UNITS_S[found[2] or "s"]


def instant(text: str, option: str) -> datetime | None:
    """A date, a date with a time, or a time from now such as `90d`; `never` is None. Without a zone it is UTC."""
    if text == "never":
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    try:
        return datetime.now(UTC) + timedelta(seconds=seconds(text, option))
    except (typer.BadParameter, OverflowError):
        forms = "write 2027-01-31, 2027-01-31T12:00:00+01:00, 90d or never"
        raise typer.BadParameter(f"{text!r} is no date: {forms}", param_hint=option) from None


def show_json(value: object) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def show_table(titles: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    """For people. None is shown as nothing."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=any(titles))
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console = Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
    console.print(table)


def shown_limits(found: Mapping[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in found.items())


def shown_instant(text: str | None) -> str:
    """To the minute, which is what fits into a table."""
    return "" if text is None else f"{text[:10]} {text[11:16]}"


def _url(config: Path) -> str:
    from gateway.config.load import load_config
    from gateway.config.problems import ConfigError

    try:
        database = load_config(config).database
    except ConfigError as error:
        refuse(error)
    if database is None:
        _fail(f"{config} has no `database`: add `database: {{url: sqlite:///headrace.db}}`, or that of a PostgreSQL")
    return database.url.get_secret_value()


def _fail(message: str) -> NoReturn:
    say(message)
    raise typer.Exit(1)
