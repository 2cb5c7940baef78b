"""Whether the templates of a pool can be used. What compiles them is imported when a pool has some."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import cast

from gateway.config.engine_options import EngineOptions
from gateway.config.models import Pool
from gateway.config.problems import Finding, KeyPath, did_you_mean

CLASSIC = ("kserve", "tfserving", "torchserve", "azureml")


def engine_template(pool: Pool, here: KeyPath) -> Iterator[Finding]:
    """Findings for one pool; `here` is where it stands."""
    engine = pool.engine
    where: KeyPath = (*here, "engine", "template")
    if engine.template == EngineOptions.model_fields["template"].default:
        return
    if engine.kind not in CLASSIC:
        message = f"`template` is for classic model servers, and this is {engine.kind}"
        kinds = ", ".join(CLASSIC)
        yield Finding(where, message, f"set `kind` to one of {kinds}, or take the section out", at_key=True)
        return
    yield from _compiled(pool, where)


def _compiled(pool: Pool, where: KeyPath) -> Iterator[Finding]:
    from engines.classic.asked import NAMES
    from engines.classic.template import BadTemplate
    from engines.classic.translator import Server
    from gateway.kinds.classic import translator_for

    server = cast(Server, importlib.import_module(f"engines.classic.{pool.engine.kind}").SERVER)
    try:
        translator_for(server, pool.engine.template)
    except BadTemplate as error:
        hint = ""
        if error.unknown:
            hint = f"{did_you_mean(error.unknown, NAMES)}; other fields of a request are `body.NAME`"
        yield Finding((*where, *error.place), f"{error}", hint, value=error.value or None)
