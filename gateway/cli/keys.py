"""`headrace keys`: keys of the database, and hashes of those that stand in the configuration."""

from __future__ import annotations

import enum
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gateway.cli import durable
from gateway.cli.output import refuse, say
from gateway.directory.roles import Role

if TYPE_CHECKING:
    from gateway.directory.records import Key, NewKey
    from gateway.directory.store import Directory

app = typer.Typer(
    help="Make, list, replace and revoke API keys; hash those of the configuration.", no_args_is_help=True
)

_KEY = typer.Argument(help="Its id, 12 hex digits; or the key itself, as when it was found somewhere.")
_TEAM = typer.Option(None, help="A team of the organisation.")
_ACCOUNT = typer.Option(None, help="A service account of the organisation, whose key it is.")
_DEPLOYMENT = typer.Option(None, help="A deployment that it may call; without this, all. May be repeated.")
_NETWORK = typer.Option(None, help="A network that it may come from, such as 10.0.0.0/8. May be repeated.")
_EXPIRES = typer.Option(None, help="When it stops working: 90d from now, 2027-01-31, or `never`.")
_SENSITIVITY = typer.Option(None, help="Sensitivity class of its requests.")


class State(enum.StrEnum):
    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"
    ALL = "all"


@app.command("create")
def create(
    name: str = typer.Argument(help="Shown in logs in place of the key."),
    tenant: str = typer.Option("", help="The organisation that is charged. Not for roles over all of them."),
    team: str | None = _TEAM,
    service_account: str | None = _ACCOUNT,
    role: Role | None = typer.Option(None, help="Makes a key for the admin API, which calls no model."),
    deployment: list[str] | None = _DEPLOYMENT,
    network: list[str] | None = _NETWORK,
    expires: str | None = _EXPIRES,
    limit: list[str] = durable.LIMIT,
    sensitivity: str | None = _SENSITIVITY,
    metadata: list[str] = durable.METADATA,
    config: Path = durable.CONFIG,
    as_json: bool = durable.AS_JSON,
) -> None:
    """Make a key in the database. It is printed once, and kept by nobody: only its salted hash is stored.

    Running gateways take it within a second.
    """
    values = _settings(team, service_account, deployment, network, expires, limit, sensitivity, metadata)
    with durable.directory_of(config) as directory:
        from gateway.directory.specs import KeySpec

        spec = KeySpec.model_validate(
            values | {"name": name, "organisation": tenant or None, "role": role.value if role else ""}
        )
        made = directory.keys.create(durable.actor(), spec)
    _show_new(made, as_json=as_json)


@app.command("list")
def list_(
    tenant: str = typer.Option("", help="Of this organisation alone."),
    team: str = typer.Option("", help="Of this team alone."),
    service_account: str = typer.Option("", help="Of this service account alone."),
    role: Role | None = typer.Option(None, help="With this role alone."),
    state: State = typer.Option(State.ACTIVE, help="In this state."),
    config: Path = durable.CONFIG,
    as_json: bool = durable.AS_JSON,
) -> None:
    """List the keys of the database, by organisation and name."""
    with durable.directory_of(config) as directory:
        from gateway.directory.api_keys import KeyFilter

        wanted = KeyFilter(
            organisation=tenant or None,
            team=team,
            service_account=service_account,
            role=role.value if role else None,
            state="" if state is State.ALL else state.value,
        )
        found = list(directory.keys.every(wanted))
    if as_json:
        durable.show_json({"keys": found})
        return
    titles = ("ID", "NAME", "TENANT", "TEAM", "ROLE", "STATE", "EXPIRES", "LIMITS")
    durable.show_table(titles, (_row(key) for key in found))


@app.command("show")
def show(key: str = _KEY, config: Path = durable.CONFIG, as_json: bool = durable.AS_JSON) -> None:
    """Show all that is known of a key."""
    with durable.directory_of(config) as directory:
        found = directory.keys.get(key)
    _show(found, as_json=as_json)


@app.command("rotate")
def rotate(
    key: str = _KEY,
    grace: str = typer.Option("24h", help="How long the old key goes on: 24h, 7d, 0 for not at all. At most 30d."),
    expires: str | None = _EXPIRES,
    config: Path = durable.CONFIG,
    as_json: bool = durable.AS_JSON,
) -> None:
    """Make another key that may do the same, under the same name; the old one ends after the grace."""
    grace_s = durable.seconds(grace, "--grace")
    with durable.directory_of(config) as directory:
        from gateway.directory.specs import KeySettings

        settings = KeySettings(expires=durable.instant(expires, "--expires")) if expires is not None else None
        made = directory.keys.rotate(durable.actor(), key, grace_s, settings)
        old = directory.keys.get(key)
    _show_new(made, as_json=as_json)
    over = f"was revoked at {old.revoked_at}" if old.revoked_at else f"is taken until {old.expires_at}"
    say(f"the old key {old.id} {over}")


@app.command("revoke")
def revoke(
    key: str = _KEY,
    yes: bool = typer.Option(False, "--yes", "-y", help="Ask nothing, as is so without a terminal."),
    config: Path = durable.CONFIG,
    as_json: bool = durable.AS_JSON,
) -> None:
    """End a key for good. Running gateways refuse it within a second; what is in flight finishes."""
    with durable.directory_of(config) as directory:
        found = directory.keys.get(key)
        if not yes and found.state != "revoked" and sys.stdin.isatty():
            typer.confirm(f"Revoke the key {found.id}, {_called(found)}?", abort=True, err=True)
        revoked = directory.keys.revoke(durable.actor(), found.id)
        _tell_of_predecessors(directory, revoked)
    if as_json:
        durable.show_json(revoked)
    elif found.state == "revoked":
        say(f"the key {found.id}, {_called(found)}, was revoked at {found.revoked_at} already")
    else:
        say(f"the key {found.id}, {_called(found)}, is revoked")


@app.command("update")
def update(
    key: str = _KEY,
    name: str | None = typer.Option(None, help="Another name."),
    team: str | None = typer.Option(None, help="Another team; '' for none."),
    service_account: str | None = typer.Option(None, help="Another service account; '' for none."),
    deployment: list[str] | None = typer.Option(
        None, help="A deployment that it may call, in place of those so far; '' for all. May be repeated."
    ),
    network: list[str] | None = typer.Option(
        None, help="A network that it may come from, in place of those so far; '' for any. May be repeated."
    ),
    expires: str | None = _EXPIRES,
    limit: list[str] = durable.LIMIT,
    sensitivity: str | None = typer.Option(None, help="Another sensitivity class; '' for the default."),
    metadata: list[str] = durable.METADATA,
    config: Path = durable.CONFIG,
    as_json: bool = durable.AS_JSON,
) -> None:
    """Change what a key may do. What is not given stays; a key keeps its organisation and its role."""
    values = _settings(team, service_account, deployment, network, expires, limit, sensitivity, metadata)
    if name is not None:
        values["name"] = name
    with durable.directory_of(config) as directory:
        from gateway.directory.specs import KeySettings

        found = directory.keys.update(durable.actor(), key, KeySettings.model_validate(values))
    _show(found, as_json=as_json)


def _settings(
    team: str | None,
    service_account: str | None,
    deployments: list[str] | None,
    networks: list[str] | None,
    expires: str | None,
    limit: list[str],
    sensitivity: str | None,
    metadata: list[str],
) -> dict[str, object]:
    """What was given; an empty text takes a thing away."""
    given: dict[str, object] = {"team": team, "service_account": service_account, "sensitivity": sensitivity}
    found = {name: value or None for name, value in given.items() if value is not None}
    for name, several in (("deployments", deployments), ("networks", networks)):
        if several:
            found[name] = None if several == [""] else several
    if expires is not None:
        found["expires"] = durable.instant(expires, "--expires")
    parts = {"limits": durable.limits(limit), "metadata": durable.metadata(metadata)}
    return found | {name: value for name, value in parts.items() if value is not None}


def _show_new(made: NewKey, *, as_json: bool) -> None:
    if as_json:
        durable.show_json(made)
    else:
        typer.echo(made.key)
    say(f"the key {made.record.id}, {_called(made.record)}: it is shown this once, and cannot be read again")


def _show(key: Key, *, as_json: bool) -> None:
    if as_json:
        durable.show_json(key)
        return
    rows = []
    for name in key.__struct_fields__:
        value = getattr(key, name)
        if isinstance(value, dict):
            value = durable.shown_limits(value)
        elif name == "deployments":
            value = "all" if value is None else " ".join(value)
        elif isinstance(value, list):
            value = " ".join(value)
        rows.append((name.replace("_", " "), value))
    durable.show_table(("", ""), rows)


def _row(key: Key) -> tuple[object, ...]:
    state = f"{key.state}, replaced" if key.state == "active" and key.replaced_by else key.state
    expires = durable.shown_instant(key.expires_at)
    return key.id, key.name, key.organisation, key.team, key.role, state, expires, durable.shown_limits(key.limits)


def _called(key: Key) -> str:
    return f"{key.name!r} of {key.organisation}" if key.organisation else f"{key.name!r} with the role {key.role}"


def _tell_of_predecessors(directory: Directory, key: Key) -> None:
    """Who revokes a key may not think of the one before it, which its grace keeps alive."""
    from gateway.directory.api_keys import KeyFilter

    for other in directory.keys.list(KeyFilter(replaced_by=key.id, state="active")):
        say(f"the key {other.id}, in whose place it came, is taken until {other.expires_at}: revoke that one too")


@app.command("new")
def new() -> None:
    """Make a key: 256 random bits. It goes to its user; the configuration needs its hash alone."""
    from gateway.keys import new_key

    typer.echo(new_key())


@app.command("hash")
def hash_(
    salt_env: str | None = typer.Option(None, help="Environment variable that holds auth.salt."),
    config: Path | None = typer.Option(None, "--config", "-c", help="Configuration whose auth.salt is taken."),
) -> None:
    """Print the hash of a key, for `auth.keys[].hash`. The key is asked for, or read from standard input."""
    from gateway.keys import hash_key

    salt = _salt(salt_env, config)
    key = typer.prompt("Key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    key = str(key).strip()
    if not key:
        say("no key was given: type one, or pipe one in")
        raise typer.Exit(1)
    if not salt:
        say("warning: there is no salt; set auth.salt, and name it with --config or --salt-env")
    typer.echo(hash_key(key, salt))


def _salt(variable: str | None, config: Path | None) -> str:
    if variable is not None and config is not None:
        raise typer.BadParameter("--salt-env and --config exclude each other")
    if variable is not None:
        if variable not in os.environ:
            raise typer.BadParameter(f"the environment variable {variable} is not set", param_hint="--salt-env")
        return os.environ[variable]
    if config is None:
        return ""
    from gateway.config.load import load_config
    from gateway.config.problems import ConfigError

    try:
        return load_config(config).auth.salt.get_secret_value()
    except ConfigError as error:
        refuse(error)
