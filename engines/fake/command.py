"""The fake engine as a command: its flags come from `FakeOptions`, so that there is one list of them."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import signal
import types
from collections.abc import Callable
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

import typer

from engines.fake.options import FakeOptions, OptionError


def fake_engine(**flags: object) -> None:
    """Run a fake engine: vLLM's API without a model, with timing, queueing and faults to order."""
    as_json = bool(flags.pop("json_", False))
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}
    try:
        options = FakeOptions(**given)  # type: ignore[arg-type]  # typer has made them from the fields' types
    except OptionError as error:
        typer.secho(f"fake-engine: {error}", fg="red", err=True)
        raise typer.Exit(2) from None
    try:
        _run(options, as_json=as_json)
    except OSError as error:
        where = f"{options.host}:{options.port}"
        typer.secho(f"fake-engine: cannot listen on {where} (--host, --port): {error}", fg="red", err=True)
        raise typer.Exit(1) from None


def _run(options: FakeOptions, *, as_json: bool) -> None:
    import uvloop

    uvloop.run(serve(options, as_json=as_json))


async def serve(options: FakeOptions, *, as_json: bool = False) -> None:
    """Run until SIGTERM or SIGINT; print one line when ready.

    Raises:
        OSError: the address cannot be bound.
    """
    import asyncio

    from engines.fake.engine import FakeEngine

    async with FakeEngine(options) as engine:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        models = ", ".join(options.models)
        ready = {"url": engine.url, "port": engine.port, "pid": os.getpid(), "models": options.models}
        line = json.dumps(ready) if as_json else f"fake engine on {engine.url} serves {models}"
        print(line, flush=True)  # noqa: T201 (the one line that scripts wait for)
        await stop.wait()


def _parameters() -> list[inspect.Parameter]:
    hints = get_type_hints(FakeOptions)
    parameters = [_parameter(field, hints[field.name]) for field in dataclasses.fields(FakeOptions)]
    text = "Print the ready line as JSON: url, port, pid, models."
    json_type = Annotated[bool, typer.Option("--json", help=text)]
    parameters.append(inspect.Parameter("json_", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=json_type))
    return parameters


def _parameter(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    default = field.default
    if get_origin(hint) is tuple:
        item: Any = get_args(hint)[0]
        hint, default = list[item], [*cast("tuple[object, ...]", default)]
    elif get_origin(hint) is types.UnionType:
        hint = next(part for part in get_args(hint) if part is not types.NoneType)
        hint = hint | None
    option = typer.Option(field.metadata["flag"], help=field.metadata["help"])
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(field.name, kind, default=default, annotation=Annotated[hint, option])


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command`, which takes keywords only, one flag per option."""
    parameters = _parameters()
    command.__signature__ = inspect.Signature(parameters, return_annotation=None)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    return command


with_flags(fake_engine)
