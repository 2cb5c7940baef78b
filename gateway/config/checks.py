"""What the types cannot say: references that lead nowhere, names that collide, settings that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import SecretStr

from gateway.config import Config, Deployment, Key, Pool
from gateway.config.admin_checks import admin_findings
from gateway.config.aws_checks import aws_engine
from gateway.config.cache_checks import cache_findings
from gateway.config.cloud_checks import cloud_engine
from gateway.config.content_checks import content_findings
from gateway.config.failure_checks import failure_findings
from gateway.config.jwt_checks import jwt_findings
from gateway.config.kv_checks import kv_events
from gateway.config.launch_checks import PYTHON_KINDS, python_engine, ray, shared_gpus
from gateway.config.limit_checks import limit_findings
from gateway.config.pool_checks import pool_sources
from gateway.config.problems import Finding, KeyPath, did_you_mean
from gateway.config.prompt_checks import prompt_findings
from gateway.config.queue_checks import queue_findings
from gateway.config.redis_checks import redis_findings
from gateway.config.residency_checks import residency_findings
from gateway.config.sites import is_loopback
from gateway.config.spill_checks import spill_findings
from gateway.config.template_checks import engine_template
from gateway.keys import hash_key

_Variables = Mapping[KeyPath, tuple[str, ...]]


def check(config: Config, variables: _Variables | None = None) -> list[Finding]:
    """All that is wrong or odd with a configuration whose types are right.

    Args:
        config: what to check.
        variables: the values that came from the environment; None if that is not known.
    """
    return [
        *_server(config),
        *_keys(config),
        *_written_keys(config, variables),
        *jwt_findings(config),
        *admin_findings(config),
        *content_findings(config, variables),
        *_pools(config),
        *shared_gpus(config),
        *_deployments(config),
        *cache_findings(config),
        *failure_findings(config),
        *limit_findings(config),
        *queue_findings(config),
        *redis_findings(config),
        *residency_findings(config),
        *spill_findings(config),
        *prompt_findings(config),
        *_names(config),
        *_unused(config),
    ]


def _server(config: Config) -> Iterator[Finding]:
    server = config.server
    asks_who = config.auth.keys or config.auth.jwt or config.database is not None
    if not is_loopback(server.host) and not asks_who:
        yield Finding(
            ("server", "host"),
            f'"{server.host}" is reachable from other machines, and no keys are configured',
            "add auth.keys, auth.jwt or database, or bind 127.0.0.1",
            value=server.host,
        )
    if server.tls is not None:
        for name, file in (("cert", server.tls.cert), ("key", server.tls.key)):
            yield from _file(("server", "tls", name), file)


def _file(path: KeyPath, file: str) -> Iterator[Finding]:
    if not Path(file).is_file():
        yield Finding(path, f'there is no file "{file}"', f"relative paths start at {Path.cwd()}", value=file)


def _keys(config: Config) -> Iterator[Finding]:
    salt = config.auth.salt.get_secret_value()
    names: dict[str, int] = {}
    hashes: dict[str, int] = {}
    for index, key in enumerate(config.auth.keys):
        here: KeyPath = ("auth", "keys", index)
        if key.name in names:
            first = names[key.name]
            yield Finding(
                (*here, "name"), f'the name "{key.name}" is that of auth.keys[{first}] as well', "names differ"
            )
        names.setdefault(key.name, index)
        yield from _one_of_hash_and_key(key, here)
        digest = key.hash or (hash_key(key.key.get_secret_value(), salt) if key.key else None)
        if digest is not None and digest in hashes:
            other = config.auth.keys[hashes[digest]].name
            yield Finding(here, f'it is the same key as "{other}"', "give each its own: `headrace keys new`")
        if digest is not None:
            hashes.setdefault(digest, index)
        yield from _key_deployments(key, here, config.deployments)


def _one_of_hash_and_key(key: Key, here: KeyPath) -> Iterator[Finding]:
    if key.hash is not None and key.key is not None:
        yield Finding((*here, "key"), 'the key has both "hash" and "key"', "keep one, better the hash", at_key=True)
    if key.hash is None and key.key is None:
        yield Finding(
            here, f'the key "{key.name}" has neither "hash" nor "key"', "add `hash:` from `headrace keys hash`"
        )
    if key.key is not None and not key.key.get_secret_value().strip():
        yield Finding((*here, "key"), "the key is empty", "make one with `headrace keys new`")


def _key_deployments(key: Key, here: KeyPath, deployments: Mapping[str, Deployment]) -> Iterator[Finding]:
    aliases = {alias: name for name, deployment in deployments.items() for alias in deployment.aliases}
    for index, name in enumerate(key.deployments):
        if name == "*" or name in deployments:
            continue
        hint = f'write "{aliases[name]}"' if name in aliases else did_you_mean(name, deployments)
        what = "is an alias" if name in aliases else "is no deployment"
        yield Finding((*here, "deployments", index), f'"{name}" {what}', hint, value=name)


def _written_keys(config: Config, variables: _Variables | None) -> Iterator[Finding]:
    """Warnings about secrets that a reader of the file would see, and hashes that are easy to reverse."""
    for index, key in enumerate(config.auth.keys):
        path: KeyPath = ("auth", "keys", index, "key")
        if key.key is not None and variables is not None and path not in variables:
            hint = "keep its hash (`headrace keys hash`), or take it from the environment: ${VAR}"
            yield Finding(path, "the key is written out in the file", hint, severity="warning")
    hashed = [index for index, key in enumerate(config.auth.keys) if key.hash is not None]
    if hashed and config.auth.salt == SecretStr(""):
        path = ("auth", "keys", hashed[0], "hash")
        yield Finding(path, "key hashes have no salt", "set auth.salt and hash the keys again", severity="warning")


def _pools(config: Config) -> Iterator[Finding]:
    for name, pool in config.pools.items():
        here: KeyPath = ("pools", name)
        if not pool.started_here and pool.replicas != 1:
            source = next(name for name in ("urls", "dns", "file", "kubernetes") if getattr(pool, name))
            yield Finding(
                (*here, "replicas"),
                f"`replicas` is for engines that the gateway starts, but there are `{source}`",
                "keep one",
            )
        if pool.started_here:
            yield from _startable(pool, here)
        yield from ray(pool, here)
        yield from pool_sources(pool, here)
        for index, url in enumerate(pool.urls):
            if url in pool.urls[:index]:
                yield Finding((*here, "urls", index), f'"{url}" stands twice', "each replica once")
        yield from aws_engine(pool, here)
        yield from cloud_engine(pool, here)
        yield from engine_template(pool, here)
        yield from kv_events(pool, here)
        if pool.engine.ca_file is not None:
            yield from _file((*here, "engine", "ca_file"), pool.engine.ca_file)


def _startable(pool: Pool, here: KeyPath) -> Iterator[Finding]:
    kind, model = pool.engine.kind, pool.engine.model
    if kind == "llamacpp" and model is None:
        yield Finding(
            (*here, "engine"), "llamacpp without `urls` needs a `model` to start", "see `headrace models list`"
        )
    elif kind == "llamacpp" and model is not None and _is_local(model):
        yield from _file((*here, "engine", "model"), str(Path(model).expanduser()))
    elif kind in PYTHON_KINDS:
        yield from python_engine(pool, here)
    elif kind not in ("llamacpp", "fake"):
        yield Finding(
            here,
            f"there are no `urls`, and the gateway cannot start an engine of the kind {kind}",
            "add `urls: [http://…]`, or take `kind: llamacpp` or `vllm` with a `model`",
        )


def _is_local(model: str) -> bool:
    return model.endswith(".gguf") and not model.startswith("hf:")


def _deployments(config: Config) -> Iterator[Finding]:
    for name, deployment in config.deployments.items():
        here: KeyPath = ("deployments", name)
        for variant_name, variant in deployment.variants.items():
            for index, pool in enumerate(variant.pools):
                where = (*here, "variants", variant_name, "pools", index)
                if pool not in config.pools:
                    yield Finding(where, f'there is no pool "{pool}"', did_you_mean(pool, config.pools), value=pool)
                elif pool in variant.pools[:index]:
                    yield Finding(where, f'the pool "{pool}" stands twice', "each pool once", value=pool)
        if not any(variant.weight for variant in deployment.variants.values()):
            yield Finding((*here, "variants"), "every variant has weight 0", "give one a weight above 0", at_key=True)
        yield from _timeouts(deployment, here)


def _timeouts(deployment: Deployment, here: KeyPath) -> Iterator[Finding]:
    limits = deployment.timeouts
    if limits.total_s is None:
        return
    for name, value in (("ttft_s", limits.ttft_s), ("connect_s", limits.connect_s)):
        if name in limits.model_fields_set and value is not None and value > limits.total_s:
            message = f"{name} {value:g} is more than total_s {limits.total_s:g}"
            yield Finding((*here, "timeouts", name), message, "lower it, or raise total_s", value=f"{value:g}")


def _names(config: Config) -> Iterator[Finding]:
    """Every name and alias that a caller can ask for leads to one deployment."""
    owners: dict[str, str] = {name: name for name in config.deployments}
    for name, deployment in config.deployments.items():
        for index, alias in enumerate(deployment.aliases):
            path: KeyPath = ("deployments", name, "aliases", index)
            if alias in owners:
                what = "a deployment" if alias in config.deployments else f'an alias of "{owners[alias]}"'
                yield Finding(path, f'"{alias}" is {what} already', "each name leads to one deployment", value=alias)
            owners.setdefault(alias, name)


def _unused(config: Config) -> Iterator[Finding]:
    used = {
        pool
        for deployment in config.deployments.values()
        for variant in deployment.variants.values()
        for pool in variant.pools
    }
    for name in config.pools:
        if name not in used:
            path: KeyPath = ("pools", name)
            yield Finding(path, "no deployment uses this pool", "name it in a variant's `pools`", None, "warning", True)
    if not config.deployments:
        hint = "add one under `deployments`"
        yield Finding((), "there are no deployments: every request will get 404", hint, severity="warning")
