"""What is odd with limits, and with what else a key may be bound to: rules that count nobody's calls, soft limits that
come after the hard ones, networks that are none."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from decimal import Decimal

from gateway.config.limit_options import LimitOptions
from gateway.config.models import Config
from gateway.config.problems import Finding, KeyPath, did_you_mean

_WINDOWS = ("usd_per_day", "usd_per_month")


def limit_findings(config: Config) -> Iterator[Finding]:
    for here, limits in _all(config):
        yield from _soft(here, limits)
    yield from _rules(config)
    yield from _tenants(config)
    yield from _teams(config)
    yield from _keys(config)


def _all(config: Config) -> Iterator[tuple[KeyPath, LimitOptions]]:
    """All limits of the file, and where they stand."""
    for name, tenant in config.tenants.items():
        yield ("tenants", name, "limits"), tenant.limits
        for team, options in tenant.teams.items():
            yield ("tenants", name, "teams", team, "limits"), options.limits
    for name, deployment in config.deployments.items():
        yield ("deployments", name, "limits"), deployment.limits
    for index, key in enumerate(config.auth.keys):
        yield ("auth", "keys", index, "limits"), key.limits
    for index, rule in enumerate(config.limits):
        yield ("limits", index), rule


def _soft(here: KeyPath, limits: LimitOptions) -> Iterator[Finding]:
    for name in _WINDOWS:
        hard: Decimal | None = getattr(limits, name)
        soft: Decimal | None = getattr(limits, f"{name}_soft")
        if hard is not None and soft is not None and soft >= hard:
            message = f"{name}_soft of {soft} USD is not below {name} of {hard} USD: it will never be told of"
            yield Finding((*here, f"{name}_soft"), message, f"lower it, or raise {name}", value=str(soft))


def _rules(config: Config) -> Iterator[Finding]:
    """A rule that is there to protect somebody, and does not because of a spelling."""
    aliases = {alias: name for name, one in config.deployments.items() for alias in one.aliases}
    keys = [key.name for key in config.auth.keys]
    for index, rule in enumerate(config.limits):
        here: KeyPath = ("limits", index)
        match = rule.match
        if not rule.model_fields_set - {"match", "per"}:
            yield Finding(here, "the rule limits nothing", "add a limit, such as `requests_per_minute`")
        deployment = match.deployment
        if deployment is not None and deployment not in config.deployments:
            what = "is an alias" if deployment in aliases else "is no deployment"
            hint = f'write "{aliases[deployment]}"' if deployment in aliases else None
            hint = hint or did_you_mean(deployment, config.deployments)
            yield Finding((*here, "match", "deployment"), f'"{deployment}" {what}', hint, value=deployment)
        if config.database is None and not config.auth.jwt:
            yield from _unknown((*here, "match", "tenant"), match.tenant, _callers(config), "tenant of any key")
            yield from _unknown((*here, "match", "key"), match.key, keys, "key of auth.keys")
            teams = [key.team for key in config.auth.keys if key.team is not None]
            yield from _unknown((*here, "match", "team"), match.team, teams, "team of any key")


def _unknown(path: KeyPath, name: str | None, known: Iterable[str], what: str) -> Iterator[Finding]:
    """Where all that there may be stands in the file."""
    if name is not None and name not in known:
        yield Finding(path, f'"{name}" is no {what}', did_you_mean(name, known), value=name)


def _tenants(config: Config) -> Iterator[Finding]:
    """An organisation whose keys are elsewhere is not wrong; one that has none may be misspelt."""
    if not config.auth.keys or config.auth.jwt or config.database is not None:
        return
    known = _callers(config)
    for name in config.tenants:
        if name not in known:
            message, hint = f'no key has the tenant "{name}"', did_you_mean(name, known)
            yield Finding(("tenants", name), message, hint, name, "warning", at_key=True)


def _teams(config: Config) -> Iterator[Finding]:
    """Keys may name teams that have no limits of their own, but where some are listed a spelling counts."""
    for index, key in enumerate(config.auth.keys):
        tenant = config.tenants.get(key.tenant)
        if key.team is None or tenant is None or not tenant.teams or key.team in tenant.teams:
            continue
        path: KeyPath = ("auth", "keys", index, "team")
        message, hint = f'"{key.team}" is no team of tenants.{key.tenant}', did_you_mean(key.team, tenant.teams)
        yield Finding(path, message, hint, key.team, "warning")


def _keys(config: Config) -> Iterator[Finding]:
    for index, key in enumerate(config.auth.keys):
        here: KeyPath = ("auth", "keys", index)
        for number, network in enumerate(key.networks):
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError as error:
                yield Finding((*here, "networks", number), str(error), "write it as `10.0.0.0/8`", value=network)
        if key.expires is not None and key.expires.tzinfo is None:
            yield Finding(
                (*here, "expires"),
                "the time has no zone",
                "end it with `Z` for UTC, or with its offset, such as `+02:00`",
                value=str(key.expires),
            )


def _callers(config: Config) -> set[str]:
    return {key.tenant for key in config.auth.keys} or {"default"}
