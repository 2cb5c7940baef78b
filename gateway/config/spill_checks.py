"""What is wrong with `spill`: nowhere to spill to or from, limits in USD without prices, variants that nothing uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.config.models import Config, Deployment, Variant
from gateway.config.problems import Finding, KeyPath, did_you_mean
from gateway.config.spill_options import SpillOptions
from gateway.prices import PriceTable, shipped
from gateway.prices.overrides import overrides_of


def spill_findings(config: Config) -> Iterator[Finding]:
    for name, deployment in config.deployments.items():
        here: KeyPath = ("deployments", name)
        yield from _smaller(deployment, config, here)
        if deployment.spill is not None:
            yield from _ways(deployment, deployment.spill, config, here)
            yield from _prices(name, deployment, deployment.spill, config)
            yield from _tenants(deployment.spill, config, here)


def _smaller(deployment: Deployment, config: Config, here: KeyPath) -> Iterator[Finding]:
    used = deployment.spill is not None and deployment.spill.step_down != "never"
    variants = deployment.variants
    if all(variant.step_down for variant in variants.values()):
        message = "every variant is one to step down to, and there is none to step down from"
        yield Finding((*here, "variants"), message, "take `step_down` from one", at_key=True)
    for name, variant in variants.items():
        where: KeyPath = (*here, "variants", name)
        if variant.step_down and not used:
            message = f'nothing ever steps down to "{name}"'
            yield Finding((*where, "step_down"), message, "set `spill.step_down` to `before` or `after`", "true")
        if variant.step_down and _at("cloud", variant, config):
            message = f'"{name}" is a variant to step down to, and has a cloud pool'
            yield Finding((*where, "pools"), message, "step-downs stay on-premise: name such pools in another variant")
        if variant.step_down:
            yield from _shared(name, variant, variants, where)


def _shared(name: str, variant: Variant, variants: Mapping[str, Variant], here: KeyPath) -> Iterator[Finding]:
    others = {pool: key for key, other in variants.items() if key != name for pool in other.pools}
    for index, pool in enumerate(variant.pools):
        if pool in others:
            message = f'the pool "{pool}" serves "{others[pool]}" too, so that stepping down to it relieves nobody'
            yield Finding((*here, "pools", index), message, "give the smaller variant pools of its own", pool)


def _ways(deployment: Deployment, spill: SpillOptions, config: Config, here: KeyPath) -> Iterator[Finding]:
    usual = [variant for variant in deployment.variants.values() if not variant.step_down]
    where: KeyPath = (*here, "spill")
    if not any(_at("on-premise", variant, config) and variant.weight for variant in usual):
        message = "no variant with a weight has an on-premise pool, so there is nothing to spill from"
        yield Finding(where, message, "name one with `site: on-premise`, or take out `spill`", at_key=True)
    smaller = len(usual) < len(deployment.variants)
    if spill.step_down == "never" and not any(_at("cloud", variant, config) for variant in usual):
        message = "no variant has a cloud pool, so there is nowhere to spill to"
        hint = "name one with `site: cloud`, or set `step_down` here and in a smaller variant"
        yield Finding(where, message, hint, at_key=True)
    if spill.step_down != "never" and not smaller:
        message = "there is no variant to step down to"
        yield Finding((*where, "step_down"), message, "set `step_down: true` in a smaller one", spill.step_down)


def _prices(name: str, deployment: Deployment, spill: SpillOptions, config: Config) -> Iterator[Finding]:
    limit = next((key for key in ("max_usd_per_hour", "max_usd_per_request") if getattr(spill, key)), None)
    if limit is None:
        return
    table = PriceTable(shipped(), overrides_of(config))
    for variant_name, variant in deployment.variants.items():
        model = variant.model or name
        if _at("cloud", variant, config) and table.find(model) is None:
            message = f'what "{model}" costs is not known, the model of the variant "{variant_name}" in a cloud'
            hint = f'add `prices: {{"{model}": {{input: …, output: …}}}}`, in USD for a million tokens'
            yield Finding(("deployments", name, "spill", limit), message, hint, at_key=True)


def _tenants(spill: SpillOptions, config: Config, here: KeyPath) -> Iterator[Finding]:
    if config.database is not None or config.auth.jwt:
        return  # these may have them all
    known = {key.tenant for key in config.auth.keys} | config.tenants.keys() or {"default"}
    for tenant in spill.tenants:
        if tenant not in known:
            where: KeyPath = (*here, "spill", "tenants", tenant)
            hint = did_you_mean(tenant, known)
            yield Finding(where, f'"{tenant}" is no tenant of any key', hint, tenant, "warning", at_key=True)


def _at(site: str, variant: Variant, config: Config) -> bool:
    """Whether it has a pool there. Names that lead nowhere are told elsewhere."""
    return any(name in config.pools and config.pools[name].site == site for name in variant.pools)
