"""`headrace audit`: who changed what, and whether the log of it is whole."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import typer

from gateway.cli import durable
from gateway.cli.output import say

if TYPE_CHECKING:
    from gateway.directory.audit import Anchor, AuditEntry, AuditFilter

app = typer.Typer(help="Read, verify and export the log of who changed what.", no_args_is_help=True)

_TENANT = typer.Option("", help="Of this organisation alone.")
_ACTOR = typer.Option("", help="By this one alone, as the list shows it: `os:alice`.")
_ACTION = typer.Option("", help="Of this kind alone, such as key.create.")
_SUBJECT = typer.Option("", help="Of this alone: the id of a key, the name of an organisation.")
_SINCE = typer.Option(None, help="From this instant on: 2027-01-31, or 2027-01-31T12:00:00Z.")
_UNTIL = typer.Option(None, help="Before this instant.")


@app.command("list")
def list_(
    tenant: str = _TENANT,
    actor: str = _ACTOR,
    action: str = _ACTION,
    subject: str = _SUBJECT,
    since: str | None = _SINCE,
    until: str | None = _UNTIL,
    limit: int = typer.Option(50, "--limit", "-n", min=1, max=100_000, help="Show so many, the newest first."),
    config: Path = durable.CONFIG,
    as_json: bool = durable.AS_JSON,
) -> None:
    """List changes, the newest first: when, who, what, and how it was before and after."""
    with durable.directory_of(config) as directory:
        wanted = _filter(tenant, actor, action, subject, since, until)
        found = directory.audit.list(wanted, limit=limit)
    if as_json:
        durable.show_json({"entries": found})
        return
    durable.show_table(("NUMBER", "AT", "ACTOR", "ACTION", "TENANT", "SUBJECT", "CHANGE"), map(_row, found))


@app.command("verify")
def verify(
    anchor: str | None = typer.Option(
        None,
        metavar="NUMBER:HASH",
        help="What an earlier `verify` printed: shows that the log was not made anew since.",
    ),
    config: Path = durable.CONFIG,
    as_json: bool = durable.AS_JSON,
) -> None:
    """Compute the chain of hashes again, and find the first entry that was changed, taken out or put in.

    Keep the line that is printed somewhere else: with it the next `verify` finds even a log that was made anew.
    Exit status 0: the log is whole; 1: it is not.
    """
    noted = _anchor(anchor)
    with durable.directory_of(config) as directory:
        verdict = directory.audit.verify(noted)
    whole = verdict.broken_at is None
    if as_json:
        durable.show_json(verdict)
    elif whole:
        say(f"the log is whole, {verdict.entries:,} entries; the last one is")
        typer.echo(f"{verdict.entries}:{verdict.head}")
    else:
        say(f"the log is broken at entry {verdict.broken_at}: {verdict.reason}")
    raise typer.Exit(0 if whole else 1)


@app.command("export")
def export(
    output: Path | None = typer.Option(None, "--output", "-o", help="A new file, instead of standard output."),
    tenant: str = _TENANT,
    actor: str = _ACTOR,
    action: str = _ACTION,
    subject: str = _SUBJECT,
    since: str | None = _SINCE,
    until: str | None = _UNTIL,
    config: Path = durable.CONFIG,
) -> None:
    """Write the log as JSON lines, the oldest first."""
    wanted = _filter(tenant, actor, action, subject, since, until)
    try:
        file = _private(output) if output is not None else sys.stdout
    except OSError as error:
        say(f"{output}: {error.strerror}")
        raise typer.Exit(1) from None
    with durable.directory_of(config) as directory:
        count = _write(file, directory.audit.export(wanted))
    if output is not None:
        file.close()
        say(f"{count:,} entries are in {output}")


def _write(file: TextIO, entries: Iterable[AuditEntry]) -> int:
    import msgspec

    count = 0
    for count, entry in enumerate(entries, 1):  # noqa: B007 - counted
        file.write(msgspec.json.encode(entry).decode() + "\n")
    return count


def _private(path: Path) -> TextIO:
    """A new file for its owner alone: the log names people, and what they may do."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8")


def _filter(tenant: str, actor: str, action: str, subject: str, since: str | None, until: str | None) -> AuditFilter:
    from gateway.directory.audit import AuditFilter

    def at(text: str | None, option: str) -> datetime | None:
        return durable.instant(text, option) if text is not None else None

    return AuditFilter(tenant or None, actor, action, subject, at(since, "--since"), at(until, "--until"))


def _anchor(text: str | None) -> Anchor | None:
    from gateway.directory.audit import Anchor

    if text is None:
        return None
    number, _, found = text.strip().partition(":")
    if not number.isdecimal() or len(found) != 64:
        raise typer.BadParameter(f"{text!r} is not of the form NUMBER:HASH", param_hint="--anchor")
    return Anchor(int(number), found)


def _row(entry: AuditEntry) -> tuple[object, ...]:
    at = f"{entry.at[:10]} {entry.at[11:19]}"
    return entry.seq, at, entry.actor, entry.action, entry.organisation, entry.subject, _change(entry)


def _change(entry: AuditEntry) -> str:
    """How it was and is; of what is new, what was said of it."""
    before, after = entry.before or {}, entry.after or {}
    if entry.before is None:
        return " ".join(
            f"{name}={_short(value)}" for name, value in after.items() if value not in (None, "", [], {}, False)
        )
    return " ".join(f"{name}={_short(before.get(name))}→{_short(value)}" for name, value in after.items())


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
