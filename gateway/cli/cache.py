"""`headrace cache`: what the response cache of a running gateway did, what it holds, and what has to go."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import typer
from pydantic import BaseModel, ValidationError

from gateway.api.cache import PurgeWanted
from gateway.caching.report import CacheReport, EntryReport, Purge
from gateway.cli.cache_evaluate import evaluate
from gateway.cli.cache_output import entry_table, size, summary
from gateway.cli.output import say
from gateway.cli.running import Unanswered, ask_running, without_login
from gateway.cli.simulate_output import show

if TYPE_CHECKING:
    from rich.table import Table

PATH = "/admin/cache"
T = TypeVar("T", bound=BaseModel)

_URL = typer.Option("http://127.0.0.1:8080", envvar="HEADRACE_URL", help="The gateway.")
_KEY = typer.Option("", envvar="HEADRACE_KEY", help="A key with `admin: true`, if keys are configured.")
_TIMEOUT = typer.Option(5.0, min=0.01, help="Seconds to wait for the connection, and for the answer.")
_JSON = typer.Option(False, "--json", help="One JSON object.")

app = typer.Typer(no_args_is_help=True, add_completion=False, help="See, purge and evaluate the response cache.")
app.command("evaluate")(evaluate)


@app.command("stats")
def stats(url: str = _URL, key: str = _KEY, timeout: float = _TIMEOUT, as_json: bool = _JSON) -> None:
    """Show what the cache did and what it has learned, summed over all workers of the gateway.

    Of each cohort, which is a tenant and a deployment: whether answers to questions that are worded differently are
    served, how many of them may be wrong, and what audits found. Exit status 1: the gateway could not be asked.
    """
    found = _ask(CacheReport, url, key, timeout, PATH)
    _tell(found, summary(found), as_json=as_json)


@app.command("inspect")
def inspect(
    entry_id: str = typer.Argument(help="As `x-headrace-cache-id` names it.", metavar="ID"),
    url: str = _URL,
    key: str = _KEY,
    timeout: float = _TIMEOUT,
    as_json: bool = _JSON,
) -> None:
    """Show one entry. Question and answer are shown to keys of the tenant that owns it; others see their SHA-256.

    Exit status 1: there is no such entry, or the gateway could not be asked.
    """
    found = _ask(EntryReport, url, key, timeout, f"{PATH}/entries/{quote(entry_id, safe='')}")
    _tell(found, [entry_table(found)], as_json=as_json)


@app.command("purge")
def purge(
    tag: str | None = typer.Option(None, help="Of a deployment's `cache.tags`."),
    tenant: str | None = typer.Option(None, help="That owns them."),
    deployment: str | None = typer.Option(None, help="That they are answers of."),
    model: str | None = typer.Option(None, help="As the answers name it."),
    epoch: int | None = typer.Option(None, help="Those of earlier epochs than this one."),
    entry_id: str | None = typer.Option(None, "--id", help="This one entry."),
    everything: bool = typer.Option(False, "--all", help="All of them."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say how many would go."),
    url: str = _URL,
    key: str = _KEY,
    timeout: float = _TIMEOUT,
    as_json: bool = _JSON,
) -> None:
    """Forget entries that agree with all that is given, in every worker and in the store.

    Exit status 1: the gateway could not be asked, or refused.
    """
    given = {"tag": tag, "tenant": tenant, "deployment": deployment, "model": model, "before_epoch": epoch}
    wanted = PurgeWanted(**given, id=entry_id, everything=everything, dry_run=dry_run)  # type: ignore[arg-type]
    body = wanted.model_dump_json(exclude_none=True).encode()
    found = _ask(Purge, url, key, timeout, f"{PATH}/purge", body)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        done = "would go" if found.dry_run else "gone"
        typer.echo(f"{found.entries} {'entry' if found.entries == 1 else 'entries'}, {size(found.size_bytes)}: {done}")


def _ask(kind: type[T], url: str, key: str, timeout_s: float, path: str, body: bytes | None = None) -> T:
    try:
        return kind.model_validate_json(ask_running(url, key, timeout_s, path, body, agent="headrace-cache"))
    except Unanswered as error:
        say(f"{error}")
    except ValidationError:
        say(f"{without_login(url)}{path}: what answers there is no Headrace of this version")
    raise typer.Exit(1)


def _tell(found: BaseModel, tables: list[Table], *, as_json: bool) -> None:
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    for table in tables:
        show(table)
