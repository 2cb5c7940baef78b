"""What is wrong or odd with `auth.jwt`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from gateway.config.jwt_options import PUBLIC_ISSUERS, JwtIssuer
from gateway.config.models import Config
from gateway.config.problems import Finding, KeyPath, did_you_mean
from gateway.config.sites import is_secure


def jwt_findings(config: Config) -> Iterator[Finding]:
    entries = config.auth.jwt
    if entries and not (importlib.util.find_spec("jwt") and importlib.util.find_spec("cryptography")):
        message = "checking tokens needs PyJWT and cryptography, which are not installed"
        yield Finding(("auth", "jwt"), message, 'pip install "headrace[oidc]"', at_key=True)
    for index, entry in enumerate(entries):
        here: KeyPath = ("auth", "jwt", index)
        yield from _twins(entry, entries[:index], here)
        yield from _urls(entry, here)
        yield from _public(entry, here)
        yield from _tenant(entry, here)
        yield from _roles(config, entry, here)
        yield from _references(config, entry, here)


def _twins(entry: JwtIssuer, before: list[JwtIssuer], here: KeyPath) -> Iterator[Finding]:
    for index, other in enumerate(before):
        if entry.name == other.name:
            yield Finding(
                (*here, "name"), f'the name "{entry.name}" is that of auth.jwt[{index}] as well', "names differ"
            )
        shared = sorted(set(entry.audience) & set(other.audience))
        if entry.issuer == other.issuer and shared:
            message = f'auth.jwt[{index}] takes tokens of the same issuer for "{shared[0]}" already'
            yield Finding((*here, "audience"), message, "each issuer and audience once", at_key=True)


def _urls(entry: JwtIssuer, here: KeyPath) -> Iterator[Finding]:
    for key, url in (("issuer", entry.issuer), ("jwks_url", entry.jwks_url)):
        if url is not None and not is_secure(url):
            message = f'"{url}" is not https: whoever sits between could vouch for anybody'
            yield Finding((*here, key), message, "use https://; plain http is for loopback addresses only", value=url)


def _public(entry: JwtIssuer, here: KeyPath) -> Iterator[Finding]:
    if entry.issuer.rstrip("/") in PUBLIC_ISSUERS and not entry.require:
        message = f'"{entry.issuer}" signs tokens for everybody, and nothing says who is let in'
        yield Finding((*here, "issuer"), message, "add `require: {CLAIM: [VALUE]}`", value=entry.issuer)


def _tenant(entry: JwtIssuer, here: KeyPath) -> Iterator[Finding]:
    if entry.tenant is not None and entry.claims.tenant is not None:
        hint = "keep `tenant` or `claims.tenant`"
        yield Finding((*here, "tenant"), "there are two sources of the tenant", hint, entry.tenant, at_key=True)
    elif entry.tenant is None and entry.claims.tenant is None and not entry.roles:
        message = f'nothing says who is charged for tokens of "{entry.name}"'
        yield Finding(here, message, "add `claims: {tenant: CLAIM}`, or a fixed `tenant: NAME`")
    if entry.tenant is None and entry.claims.tenant is None and "tenant-admin" in entry.roles.values():
        message = "a tenant-admin needs a tenant, and nothing says which"
        yield Finding(
            (*here, "roles"), message, "add `claims: {tenant: CLAIM}`, or a fixed `tenant: NAME`", at_key=True
        )


def _roles(config: Config, entry: JwtIssuer, here: KeyPath) -> Iterator[Finding]:
    if entry.roles and entry.claims.role is None:
        hint = "add `claims: {role: CLAIM}`"
        yield Finding((*here, "roles"), "nothing says which claim has the roles", hint, at_key=True)
    if entry.claims.role is not None and not entry.roles:
        hint = "add `roles: {VALUE: admin}`, or take the claim out"
        yield Finding((*here, "claims", "role"), "no value of this claim is a role", hint, at_key=True)
    if entry.roles and config.database is None:
        message = "roles are for the admin API, and there is none without `database`"
        yield Finding((*here, "roles"), message, "add `database`", severity="warning", at_key=True)


def _references(config: Config, entry: JwtIssuer, here: KeyPath) -> Iterator[Finding]:
    for index, name in enumerate(entry.deployments):
        if name != "*" and name not in config.deployments:
            hint = did_you_mean(name, config.deployments)
            yield Finding((*here, "deployments", index), f'"{name}" is no deployment', hint, value=name)
    classes = config.residency.classes
    if entry.sensitivity is not None and entry.sensitivity not in classes:
        message, hint = f'"{entry.sensitivity}" is none of residency.classes', did_you_mean(entry.sensitivity, classes)
        yield Finding((*here, "sensitivity"), message, hint, value=entry.sensitivity)
    for key, file in (("ca_file", entry.ca_file), ("token_file", entry.token_file)):
        if file is not None and not Path(file).is_file():
            hint = f"relative paths start at {Path.cwd()}"
            yield Finding((*here, key), f'there is no file "{file}" here', hint, file, "warning")
