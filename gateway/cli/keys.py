"""`headrace keys`: making API keys and the hashes that the configuration keeps of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from gateway.cli.output import refuse, say

app = typer.Typer(help="Make API keys, and the hashes that the configuration keeps of them.", no_args_is_help=True)


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
