"""What is wrong or odd with pools of cloud engines."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from gateway.config.engine_options import EngineOptions
from gateway.config.models import Pool
from gateway.config.problems import Finding, KeyPath

CLOUDS = ("azure", "vertex", "anthropic")
_SECTIONS = {"azure": "azure", "google": "vertex", "anthropic": "anthropic"}
"""Of the engine, and the kind that each is for."""


def cloud_engine(pool: Pool, here: KeyPath) -> Iterator[Finding]:
    """Findings for one pool; `here` is where it stands."""
    engine = pool.engine
    where: KeyPath = (*here, "engine")
    for section, kind in _SECTIONS.items():
        # Not `model_fields_set`: what `headrace check` prints has every default filled in, and is a configuration too.
        says_something = getattr(engine, section) != EngineOptions.model_fields[section].default
        if says_something and engine.kind != kind:
            message = f"`{section}` is for `kind: {kind}`, and this is {engine.kind}"
            yield Finding((*where, section), message, f"set `kind: {kind}`, or take the section out", at_key=True)
    if engine.kind not in CLOUDS:
        return
    if engine.kind == "azure":
        yield from _azure(engine, where)
    elif engine.kind == "vertex":
        yield from _vertex(engine, where)
    elif not _let_in(engine, "x-api-key"):
        yield Finding(where, "anthropic without `api_key`", "add `api_key: ${ANTHROPIC_API_KEY}`")
    if pool.site != "cloud":
        message = f"{engine.kind} is a cloud, and the site of its pool is {pool.site}"
        yield Finding(here, message, "set `site: cloud`", severity="warning")


def _azure(engine: EngineOptions, where: KeyPath) -> Iterator[Finding]:
    azure = engine.azure
    given = {"tenant_id": azure.tenant_id, "client_id": azure.client_id, "client_secret": azure.client_secret}
    if not azure.entra:
        if not _let_in(engine, "api-key"):
            yield Finding(where, "azure without a way in", "add `api_key`, or `azure: {entra: true}`")
        for name in (name for name, value in given.items() if value is not None):
            message = f"`{name}` is for Entra ID, which is off"
            yield Finding((*where, "azure", name), message, "set `entra: true`", at_key=True)
        return
    yield from _extra(where, "azure.entra", "azure.identity", "azure")
    if engine.api_key is not None:
        yield Finding((*where, "api_key"), "there are both `api_key` and `azure.entra`", "keep one", at_key=True)
    if azure.client_secret is not None:
        for name in ("tenant_id", "client_id"):
            if given[name] is None:
                message = f"a `client_secret` needs a `{name}` too"
                yield Finding((*where, "azure"), message, f"add `{name}`", at_key=True)


def _vertex(engine: EngineOptions, where: KeyPath) -> Iterator[Finding]:
    yield from _extra(where, "kind: vertex", "google.auth", "google")
    if engine.google.project is None:
        yield Finding(where, "vertex without a project", "add `google: {project: …, location: …}`")
    if engine.api_key is not None:
        message = "Vertex AI takes no `api_key`"
        yield Finding(
            (*where, "api_key"), message, "name a service account's key as `google.credentials_file`", at_key=True
        )
    file = engine.google.credentials_file
    if file is not None and not Path(file).is_file():
        path = (*where, "google", "credentials_file")
        yield Finding(path, f'there is no file "{file}"', f"relative paths start at {Path.cwd()}", value=file)


def _let_in(engine: EngineOptions, header: str) -> bool:
    """Whether there is a key, or a header that the operator wrote in its place."""
    return engine.api_key is not None or any(name.lower() in (header, "authorization") for name in engine.headers)


def _extra(where: KeyPath, what: str, module: str, extra: str) -> Iterator[Finding]:
    try:
        missing = importlib.util.find_spec(module) is None
    except ModuleNotFoundError:
        missing = True
    if missing:
        yield Finding(where, f"`{what}` needs a library that is not installed", f'pip install "headrace[{extra}]"')
