"""The root command: which commands there are, and loading those that live in heavier modules only when called."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from gateway.cli import check, diff, health, keys, litellm, schema, serve, version

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_ORDER = (
    "serve",
    "check",
    "diff",
    "config",
    "schema",
    "models",
    "engines",
    "keys",
    "tenants",
    "teams",
    "service-accounts",
    "audit",
    "pools",
    "cache",
    "prices",
    "usage",
    "explain",
    "simulate",
    "import-litellm",
    "fake-engine",
    "health",
    "version",
)


class _Stub(TyperCommand):
    """Stands in the list of commands; `load` gives the real one."""

    def __init__(self, name: str, short_help: str, module: str, attribute: str) -> None:
        super().__init__(name, help=short_help)
        self._module = module
        self._attribute = attribute

    def load(self) -> Any:
        target = getattr(importlib.import_module(self._module), self._attribute)
        if isinstance(target, typer.Typer):
            group = typer.main.get_command(target)
            group.context_settings = {**CONTEXT, **group.context_settings}
            return group
        single = typer.Typer(add_completion=False, context_settings=CONTEXT)
        single.command(self.name, context_settings=CONTEXT)(target)
        return typer.main.get_command(single)


def real_command(command: Any) -> Any:
    """The command that a stub stands for; any other command itself."""
    return command.load() if isinstance(command, _Stub) else command


_LATER = (
    ("config", "See, change and take back the configuration of a running gateway.", "gateway.cli.config", "app"),
    ("tenants", "Make, list, change and disable organisations.", "gateway.cli.tenants", "app"),
    ("teams", "Make, list, change and disable teams of organisations.", "gateway.cli.tenants", "teams"),
    ("service-accounts", "Make, list, change and disable service accounts.", "gateway.cli.tenants", "accounts"),
    ("audit", "Read, verify and export the log of who changed what.", "gateway.cli.audit", "app"),
    ("prices", "List what models cost.", "gateway.cli.prices", "prices"),
    ("usage", "Show who used what, and what it cost.", "gateway.cli.usage", "usage"),
    ("explain", "Explain how a request would be routed.", "gateway.cli.explain", "explain"),
    ("models", "Fetch models for the embedded engine, and see which there are.", "gateway.cli.models", "app"),
    ("simulate", "Play a trace against simulated engines.", "gateway.cli.simulate", "simulate"),
    ("pools", "Show pools and their replicas, once or live.", "gateway.cli.pools", "pools"),
    ("cache", "See, purge and evaluate the response cache.", "gateway.cli.cache", "app"),
    ("engines", "Find out what an engine is and can do.", "gateway.cli.engines", "app"),
    ("fake-engine", "Run an engine for tests: no model, every fault.", "gateway.cli.fake_engine", "fake_engine"),
)


class _Root(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, short_help, module, attribute in _LATER:
            if importlib.util.find_spec(module) is not None:
                self.add_command(_Stub(name, short_help, module, attribute), name)

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, real_command(command), rest


app = typer.Typer(
    name="headrace",
    cls=_Root,
    no_args_is_help=True,
    context_settings=CONTEXT,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def _root(
    _version: bool = typer.Option(
        False, "--version", "-V", callback=version.print_and_exit, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """An OpenAI-compatible gateway in front of your own and cloud language models.

    Begin with `headrace serve`: it fetches a small model and answers on http://127.0.0.1:8080/v1.
    """


app.command("serve")(serve.serve)
app.command("check")(check.check)
app.command("diff")(diff.diff)
app.command("schema")(schema.schema)
app.command("health")(health.health)
app.command("import-litellm")(litellm.import_litellm)
app.command("version")(version.version)
app.add_typer(keys.app, name="keys")


def main() -> None:
    """The console entry point."""
    app(prog_name="headrace")
