"""`headrace tenants`, `headrace teams`, `headrace service-accounts`: what keys belong to, in the database."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gateway.cli import durable
from gateway.cli.output import say

if TYPE_CHECKING:
    from gateway.directory.records import Organisation, ServiceAccount, Team

app = typer.Typer(help="Make, list, change and disable organisations.", no_args_is_help=True)
teams = typer.Typer(help="Make, list, change and disable teams of organisations.", no_args_is_help=True)
accounts = typer.Typer(help="Make, list, change and disable service accounts.", no_args_is_help=True)

_NAME = typer.Argument(help="Its name.")
_OF = typer.Option(..., "--tenant", help="The organisation.")
_WEIGHT = typer.Option(None, help="Its share of engines that are full, relative to others'; 1 unless given.")
_PRIORITY = typer.Option(None, help="Its class in the queue, 0 to 9; a lower one goes first; 0 unless given.")
_LOG_CONTENT = typer.Option(None, help="Share of its calls whose prompts and answers are kept; 0 unless given.")
_DESCRIPTION = typer.Option(None, help="What it is for.")


class WhenLost(enum.StrEnum):
    OPEN = "open"
    CLOSED = "closed"
    SLICE = "slice"


_WHEN_LOST = typer.Option(
    None, help="While the store of the limits is away: admit all, nothing, or each worker's share, unless given."
)


@app.command("create")
def create_tenant(
    name: str = _NAME,
    limit: list[str] = durable.LIMIT,
    weight: float | None = _WEIGHT,
    priority: int | None = _PRIORITY,
    when_store_lost: WhenLost | None = _WHEN_LOST,
    log_content: float | None = _LOG_CONTENT,
    metadata: list[str] = durable.METADATA,
    config: Path = durable.CONFIG,
    as_json: bool = durable.AS_JSON,
) -> None:
    """Make an organisation: who is charged. Keys and teams belong to one."""
    given = _given(limit, metadata, weight=weight, priority=priority, when=when_store_lost, log_content=log_content)
    with durable.directory_of(config) as directory:
        from gateway.directory.specs import OrganisationSpec

        spec = OrganisationSpec.model_validate(given | {"name": name})
        found = directory.organisations.create(durable.actor(), spec)
    _tell(found, "organisation", "made", as_json=as_json)


@app.command("list")
def list_tenants(config: Path = durable.CONFIG, as_json: bool = durable.AS_JSON) -> None:
    """List the organisations of the database. Those of the configuration are not among them."""
    with durable.directory_of(config) as directory:
        found = list(directory.organisations.every())
    if as_json:
        durable.show_json({"organisations": found})
        return
    titles = ("NAME", "STATE", "WEIGHT", "PRIORITY", "STORE LOST", "CONTENT", "LIMITS")
    rows = (
        (
            *(one.name, _state(one), f"{one.weight:g}", one.priority),
            *(one.when_store_lost, f"{one.log_content:g}", durable.shown_limits(one.limits)),
        )
        for one in found
    )
    durable.show_table(titles, rows)


@app.command("update")
def update_tenant(
    name: str = _NAME,
    limit: list[str] = durable.LIMIT,
    weight: float | None = _WEIGHT,
    priority: int | None = _PRIORITY,
    when_store_lost: WhenLost | None = _WHEN_LOST,
    log_content: float | None = _LOG_CONTENT,
    metadata: list[str] = durable.METADATA,
    config: Path = durable.CONFIG,
    as_json: bool = durable.AS_JSON,
) -> None:
    """Change an organisation. What is not given stays."""
    given = _given(limit, metadata, weight=weight, priority=priority, when=when_store_lost, log_content=log_content)
    _change_tenant(config, name, given, "changed", as_json=as_json)


@app.command("disable")
def disable_tenant(name: str = _NAME, config: Path = durable.CONFIG, as_json: bool = durable.AS_JSON) -> None:
    """Refuse all keys of an organisation, within a second, until it is enabled."""
    _change_tenant(config, name, {"disabled": True}, "disabled", as_json=as_json)


@app.command("enable")
def enable_tenant(name: str = _NAME, config: Path = durable.CONFIG, as_json: bool = durable.AS_JSON) -> None:
    """Take the keys of an organisation again."""
    _change_tenant(config, name, {"disabled": False}, "enabled", as_json=as_json)


@teams.command("create")
def create_team(
    name: str = _NAME,
    tenant: str = _OF,
    limit: list[str] = durable.LIMIT,
    metadata: list[str] = durable.METADATA,
    config: Path = durable.CONFIG,
    as_json: bool = durable.AS_JSON,
) -> None:
    """Make a team: keys of an organisation that share limits of their own."""
    with durable.directory_of(config) as directory:
        from gateway.directory.specs import TeamSpec

        spec = TeamSpec.model_validate(_given(limit, metadata) | {"name": name})
        found = directory.teams.create(durable.actor(), spec, tenant)
    _tell(found, "team", "made", as_json=as_json)


@teams.command("list")
def list_teams(tenant: str = durable.TENANT, config: Path = durable.CONFIG, as_json: bool = durable.AS_JSON) -> None:
    """List the teams of the database: of one organisation, or of all."""
    with durable.directory_of(config) as directory:
        found = list(directory.teams.every(tenant or None))
    if as_json:
        durable.show_json({"teams": found})
        return
    rows = ((one.organisation, one.name, _state(one), durable.shown_limits(one.limits)) for one in found)
    durable.show_table(("TENANT", "NAME", "STATE", "LIMITS"), rows)


@teams.command("update")
def update_team(
    name: str = _NAME,
    tenant: str = _OF,
    limit: list[str] = durable.LIMIT,
    metadata: list[str] = durable.METADATA,
    config: Path = durable.CONFIG,
    as_json: bool = durable.AS_JSON,
) -> None:
    """Change a team. What is not given stays."""
    _change_team(config, tenant, name, _given(limit, metadata), "changed", as_json=as_json)


@teams.command("disable")
def disable_team(
    name: str = _NAME, tenant: str = _OF, config: Path = durable.CONFIG, as_json: bool = durable.AS_JSON
) -> None:
    """Refuse all keys of a team, within a second, until it is enabled."""
    _change_team(config, tenant, name, {"disabled": True}, "disabled", as_json=as_json)


@teams.command("enable")
def enable_team(
    name: str = _NAME, tenant: str = _OF, config: Path = durable.CONFIG, as_json: bool = durable.AS_JSON
) -> None:
    """Take the keys of a team again."""
    _change_team(config, tenant, name, {"disabled": False}, "enabled", as_json=as_json)


@accounts.command("create")
def create_account(
    name: str = _NAME,
    tenant: str = _OF,
    description: str | None = _DESCRIPTION,
    metadata: list[str] = durable.METADATA,
    config: Path = durable.CONFIG,
    as_json: bool = durable.AS_JSON,
) -> None:
    """Make a service account: a program that owns keys of an organisation."""
    with durable.directory_of(config) as directory:
        from gateway.directory.specs import ServiceAccountSpec

        given = _given([], metadata, description=description)
        spec = ServiceAccountSpec.model_validate(given | {"name": name})
        found = directory.service_accounts.create(durable.actor(), spec, tenant)
    _tell(found, "service account", "made", as_json=as_json)


@accounts.command("list")
def list_accounts(tenant: str = durable.TENANT, config: Path = durable.CONFIG, as_json: bool = durable.AS_JSON) -> None:
    """List the service accounts: of one organisation, or of all."""
    with durable.directory_of(config) as directory:
        found = list(directory.service_accounts.every(tenant or None))
    if as_json:
        durable.show_json({"service_accounts": found})
        return
    rows = ((one.organisation, one.name, _state(one), one.description) for one in found)
    durable.show_table(("TENANT", "NAME", "STATE", "DESCRIPTION"), rows)


@accounts.command("update")
def update_account(
    name: str = _NAME,
    tenant: str = _OF,
    description: str | None = _DESCRIPTION,
    metadata: list[str] = durable.METADATA,
    config: Path = durable.CONFIG,
    as_json: bool = durable.AS_JSON,
) -> None:
    """Change a service account. What is not given stays."""
    given = _given([], metadata, description=description)
    _change_account(config, tenant, name, given, "changed", as_json=as_json)


@accounts.command("disable")
def disable_account(
    name: str = _NAME, tenant: str = _OF, config: Path = durable.CONFIG, as_json: bool = durable.AS_JSON
) -> None:
    """Refuse all keys of a service account, within a second, until it is enabled."""
    _change_account(config, tenant, name, {"disabled": True}, "disabled", as_json=as_json)


@accounts.command("enable")
def enable_account(
    name: str = _NAME, tenant: str = _OF, config: Path = durable.CONFIG, as_json: bool = durable.AS_JSON
) -> None:
    """Take the keys of a service account again."""
    _change_account(config, tenant, name, {"disabled": False}, "enabled", as_json=as_json)


def _given(limit: list[str], metadata: list[str], **options: object) -> durable.Values:
    found = options | {"limits": durable.limits(limit), "metadata": durable.metadata(metadata)}
    found["when_store_lost"] = found.pop("when", None)
    return {name: value for name, value in found.items() if value is not None}


def _change_tenant(config: Path, name: str, given: durable.Values, done: str, *, as_json: bool) -> None:
    with durable.directory_of(config) as directory:
        from gateway.directory.specs import OrganisationSettings

        settings = OrganisationSettings.model_validate(given)
        found = directory.organisations.update(durable.actor(), name, settings)
    _tell(found, "organisation", done, as_json=as_json)


def _change_team(config: Path, tenant: str, name: str, given: durable.Values, done: str, *, as_json: bool) -> None:
    with durable.directory_of(config) as directory:
        from gateway.directory.specs import TeamSettings

        found = directory.teams.update(durable.actor(), name, TeamSettings.model_validate(given), tenant)
    _tell(found, "team", done, as_json=as_json)


def _change_account(config: Path, tenant: str, name: str, given: durable.Values, done: str, *, as_json: bool) -> None:
    with durable.directory_of(config) as directory:
        from gateway.directory.specs import ServiceAccountSettings

        settings = ServiceAccountSettings.model_validate(given)
        found = directory.service_accounts.update(durable.actor(), name, settings, tenant)
    _tell(found, "service account", done, as_json=as_json)


def _tell(found: Organisation | Team | ServiceAccount, word: str, done: str, *, as_json: bool) -> None:
    if as_json:
        durable.show_json(found)
    else:
        say(f"the {word} {found.name!r} is {done}")


def _state(found: Organisation | Team | ServiceAccount) -> str:
    return "disabled" if found.disabled else "enabled"
