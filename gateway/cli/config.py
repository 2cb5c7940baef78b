"""`headrace config`: what configuration a running gateway serves, what it served before, and changing it."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import typer

from gateway.cli.diff import show_differences
from gateway.cli.output import refuse, say

if TYPE_CHECKING:
    from gateway.cli.config_client import Client
    from gateway.config.live import Answer, History, Outcome, Past, Propose, Question, Rollback

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="""See, change and take back the configuration of a running gateway.

    Without `--admin` the gateway of this machine is asked, by a socket in its state folder (HEADRACE_STATE) that only
    its user and root can open; changes are for it alone. With `--admin` they are for every gateway of its database.
    """,
)

_SHOWN_CHANGES = 3
_ADMIN = typer.Option(
    "", "--admin", envvar="HEADRACE_ADMIN", help="URL of an admin API, such as http://127.0.0.1:9090."
)
_KEY = typer.Option("", "--key", envvar="HEADRACE_ADMIN_KEY", help="A key of that API. Better given by the variable.")
_JSON = typer.Option(False, "--json", help="Print JSON.")
_YES = typer.Option(False, "--yes", "-y", help="Do not ask.")
_DRY_RUN = typer.Option(False, "--dry-run", help="Only check, and print what would change.")


@app.command()
def show(
    effective: bool = typer.Option(False, "--effective", "-e", help="The whole configuration as well."),
    admin: str = _ADMIN,
    key: str = _KEY,
    as_json: bool = _JSON,
) -> None:
    """Print which configuration serves, who brought it, and whether the gateway's file says something else.

    Of a configuration that was applied and the gateway's file the one that changed last counts, also after a restart.
    Secrets are masked.
    """
    from gateway.config.live import Show, Shown

    shown = _ask(_client(admin, key), Show(effective=effective), Shown)
    if as_json:
        _print_json(shown)
        return
    by = f" by {shown.who}" if shown.who else ""
    typer.echo(f"{shown.version}: {shown.name}, {_ORIGINS[shown.origin]}{by}, {_time(shown.at)}")
    if shown.beside:
        typer.echo(shown.beside)
    if effective:
        typer.echo(f"\n{shown.effective}", nl=False)


@app.command()
def history(admin: str = _ADMIN, key: str = _KEY, as_json: bool = _JSON) -> None:
    """List the configurations that have served, the newest first. The gateway keeps 50."""
    from gateway.config.live import History, ShowHistory

    found = _ask(_client(admin, key), ShowHistory(), History)
    if as_json:
        _print_json(found)
    else:
        _print_table(found)


@app.command()
def diff(
    old: Path = typer.Argument(..., help="A file; with --running the one that might serve."),
    new: Path | None = typer.Argument(None, help="A file as it would be."),
    running: bool = typer.Option(False, "--running", help="Compare with what the gateway serves."),
    admin: str = _ADMIN,
    key: str = _KEY,
    as_json: bool = typer.Option(False, "--json", help="The differences as a JSON list."),
    exit_code: bool = typer.Option(False, "--exit-code", help="Leave with 1 if there are differences."),
) -> None:
    """Print the effective values that differ: between two files, or from what the gateway serves to a file.

    With --running the gateway reads the file's text as if it were its own: with its variables, and its command line.
    """
    from gateway.cli.diff import diff as diff_files
    from gateway.config.live import Propose

    if running == (new is not None):
        raise typer.BadParameter("give two files, or one and --running")
    if new is not None:
        diff_files(old, new, as_json, exit_code)
        return
    outcome = _change(_client(admin, key), Propose(text=_text(old), name=str(old), dry_run=True), as_json=False)
    show_differences(outcome.differences, as_json=as_json)
    if exit_code and outcome.differences:
        raise typer.Exit(1)


@app.command()
def apply(
    file: Path = typer.Argument(..., help="The configuration; `-` reads standard input."),
    dry_run: bool = _DRY_RUN,
    yes: bool = _YES,
    admin: str = _ADMIN,
    key: str = _KEY,
    as_json: bool = _JSON,
) -> None:
    """Have a configuration serve. Nothing in flight is touched; one that is not right changes nothing.

    The text is sent as it is: variables get their values where the gateway runs.
    """
    from gateway.config.live import Propose

    if str(file) == "-" and not (yes or dry_run):
        raise typer.BadParameter("a configuration from standard input needs --yes or --dry-run")
    given = Propose(text=_text(file), name="standard input" if str(file) == "-" else str(file), dry_run=True)
    _apply(_client(admin, key), given, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command()
def rollback(
    version: str | None = typer.Argument(
        None, help="A version or its number, as `history` lists them; by default the one before the present one."
    ),
    dry_run: bool = _DRY_RUN,
    yes: bool = _YES,
    admin: str = _ADMIN,
    key: str = _KEY,
    as_json: bool = _JSON,
) -> None:
    """Have an earlier configuration serve again, under a version of its own."""
    from gateway.config.live import Rollback

    number = None
    if version is not None:
        digits = version.partition("-")[0]
        if not (digits.isascii() and digits.isdigit()):
            raise typer.BadParameter(f"{version!r} is no version; `headrace config history` lists them")
        number = int(digits)
    _apply(_client(admin, key), Rollback(number=number, dry_run=True), dry_run=dry_run, yes=yes, as_json=as_json)


_ORIGINS = {
    "start": "from the start",
    "file": "the file was changed",
    "signal": "read on SIGHUP",
    "socket": "applied on the machine",
    "api": "applied through the admin API",
    "database": "applied on another gateway",
}


def _apply(client: Client, given: Propose | Rollback, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """given: a dry run; what it says is asked about, and must still hold when it is done."""
    checked = _change(client, given, as_json=as_json)
    if dry_run or not (yes or _agreed(checked)):
        _tell(checked, as_json=as_json)
        if not dry_run:
            raise typer.Exit(1)
        return
    outcome = _change(client, msgspec.structs.replace(given, dry_run=False, expected=checked.version), as_json=as_json)
    _tell(outcome, as_json=as_json)


def _agreed(checked: Outcome) -> bool:
    """Whether somebody says yes to the differences."""
    if not sys.stdin.isatty():
        say("nobody is there to ask: give --yes")
        return False
    show_differences(checked.differences, as_json=False)
    return typer.confirm("Apply?" if checked.differences else "Nothing would change. Apply?", err=True)


def _tell(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        _print_json(outcome)
        return
    show_differences(outcome.differences, as_json=False)
    words = {"applied": "serves now", "unchanged": "served already", "checked": "goes on serving"}
    say(f"{outcome.version} {words[outcome.status]}")


def _change(client: Client, question: Propose | Rollback, *, as_json: bool) -> Outcome:
    """What became of it. Leaves with 1 if it was refused; as_json: not without the outcome on standard output."""
    from gateway.config import live

    outcome: Outcome = _ask(client, question, live.Outcome)
    for problem in outcome.problems:
        say(problem)
    if not outcome.good:
        if as_json:
            _print_json(outcome)
        if outcome.status == "refused":
            say(f"refused, {outcome.version or 'the old one'} goes on serving")
        raise typer.Exit(1)
    return outcome


def _client(admin: str, key: str) -> Client:
    from gateway.cli.config_client import AdminClient, SocketClient

    return AdminClient(admin, key) if admin else SocketClient()


def _ask(client: Client, question: Question, wanted: type[Any]) -> Any:
    from gateway.cli.config_client import Unanswered
    from gateway.config.live import Failed

    try:
        answer: Answer = client.ask(question)
    except Unanswered as error:
        _leave(str(error))
    if isinstance(answer, Failed):
        _leave(answer.message)
    if not isinstance(answer, wanted):
        _leave("the gateway's answer is not understood: it may be of another version")
    return answer


def _leave(message: str) -> NoReturn:
    say(message)
    raise typer.Exit(1)


def _text(file: Path) -> str:
    from gateway.config.problems import ConfigError
    from gateway.config.watch import read_text

    if str(file) == "-":
        return sys.stdin.read()
    try:
        return read_text(file)
    except ConfigError as error:
        refuse(error)


def _print_json(answer: Any) -> None:
    typer.echo(json.dumps(_untagged(msgspec.to_builtins(answer)), indent=2))


def _untagged(value: Any) -> Any:
    """Without what tells the messages of the socket apart."""
    if isinstance(value, dict):
        return {key: _untagged(child) for key, child in value.items() if key != "type"}
    return [_untagged(child) for child in value] if isinstance(value, list) else value


def _print_table(found: History) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("VERSION", "WHEN", "FROM", "BY", "CHANGED"):
        table.add_column(title, overflow="fold")
    for one in found.past:
        mark = " *" if one.version == found.running else ""
        table.add_row(f"{one.version}{mark}", _time(one.at), one.name, one.who, _summary(one))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False).print(table)


def _summary(one: Past) -> str:
    from gateway.config.dump import summary

    changed = summary(one.differences, _SHOWN_CHANGES)
    return f"{one.note}: {changed}" if one.note else changed


def _time(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
