"""`headrace pools`: how the pools of a running gateway are doing, once or live."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

import typer
from pydantic import ValidationError

from gateway.cli.output import say
from gateway.cli.running import Unanswered, ask_running, without_login
from gateway.pool_report import PoolList, PoolReport, ReplicaReport

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PATH = "/admin/pools"
_PIPE_WIDTH = 200
_COLOURS = {
    "up": "green",
    "warming": "yellow",
    "half_open": "yellow",
    "open": "red",
    "asleep": "blue",
    "draining": "cyan",
}


def pools(
    url: str = typer.Option("http://127.0.0.1:8080", envvar="HEADRACE_URL", help="The gateway."),
    key: str = typer.Option("", envvar="HEADRACE_KEY", help="A key with `admin: true`, if keys are configured."),
    watch: bool = typer.Option(False, "--watch", "-w", help="Show it live, until Ctrl-C."),
    every: float = typer.Option(1.0, min=0.1, help="With --watch: seconds between two looks."),
    timeout: float = typer.Option(5.0, min=0.01, help="Seconds to wait for the connection, and for the answer."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object; with --watch one a line."),
) -> None:
    """Show pools and their replicas: state, requests in flight, what was last wrong, where they are found.

    The numbers are sums over all workers of the gateway. Exit status 1: it could not be asked.
    """
    if watch:
        with contextlib.suppress(KeyboardInterrupt):
            _watch(url, key, timeout, every, as_json=as_json)
        return
    try:
        found = ask(url, key, timeout)
    except Unanswered as error:
        say(f"{error}")
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        _console().print(table(found))


def ask(url: str, key: str, timeout_s: float) -> PoolList:
    """What the gateway says.

    Raises:
        Unanswered: it cannot be reached, or refuses.
    """
    body = ask_running(url, key, timeout_s, PATH, agent="headrace-pools")
    try:
        return PoolList.model_validate_json(body)
    except ValidationError:
        raise Unanswered(f"{without_login(url)}{PATH}: what answers there is no Headrace of this version") from None


def table(found: PoolList) -> Table:
    """For people. Workers that disagree on a replica's state are counted."""
    from rich.table import Table
    from rich.text import Text

    count = len(found.workers)
    shown = Table(
        box=None, pad_edge=False, caption=f"{count} worker{'' if count == 1 else 's'}", caption_justify="left"
    )
    for title in ("POOL", "REPLICA", "STATE", "IN FLIGHT", "SERVED", "URL", "LAST ERROR"):
        numeric = title in ("IN FLIGHT", "SERVED")
        shown.add_column(title, justify="right" if numeric else "left", no_wrap=title != "LAST ERROR")
    for pool in found.pools:
        shown.add_row(Text(pool.name, style="bold"), "", Text(_source(pool)), "", "", "", Text(pool.error, style="red"))
        for one in pool.replicas:
            state = Text(_state(one), style=_COLOURS[one.state])
            shown.add_row("", one.name, state, f"{one.in_flight}", f"{one.served}", Text(one.url), Text(one.last_error))
    return shown


def _source(pool: PoolReport) -> str:
    held = f", waking for {pool.held} requests" if pool.waking else ""
    return f"{pool.source}{held}"


def _state(replica: ReplicaReport) -> str:
    if len(replica.states) == 1:
        return replica.state.replace("_", "-")
    return ", ".join(f"{state.replace('_', '-')} in {count}" for state, count in sorted(replica.states.items()))


def _watch(url: str, key: str, timeout_s: float, every_s: float, *, as_json: bool) -> None:
    from rich.live import Live
    from rich.text import Text

    if as_json:
        while True:
            with contextlib.suppress(Unanswered):
                typer.echo(ask(url, key, timeout_s).model_dump_json())
            time.sleep(every_s)
    with Live(console=_console(), auto_refresh=False, screen=sys.stdout.isatty()) as live:
        while True:
            try:
                live.update(table(ask(url, key, timeout_s)), refresh=True)
            except Unanswered as error:
                live.update(Text(str(error), style="red"), refresh=True)
            time.sleep(every_s)


def _console() -> Console:
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
