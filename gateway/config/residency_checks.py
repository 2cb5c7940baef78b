"""What is wrong with `residency`: classes that do not exist, and a collector that may stand in a cloud."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.models import Config
from gateway.config.problems import Finding, KeyPath, did_you_mean
from gateway.config.sites import site_of


def residency_findings(config: Config) -> Iterator[Finding]:
    options = config.residency
    if "classes" in options.model_fields_set and "sites" not in options.model_fields_set:
        message = "there are classes of your own, and nothing says to which sites they may go"
        yield Finding(("residency",), message, "add `sites: {CLASS: [on-premise]}`", at_key=True)
    else:
        yield from _classes(config)
    for index, name in enumerate(options.classes):
        if name in options.classes[:index]:
            yield Finding(("residency", "classes", index), f'"{name}" stands twice', "each class once", value=name)
    yield from _collector(config)


def _classes(config: Config) -> Iterator[Finding]:
    options = config.residency
    named: list[tuple[KeyPath, str, bool]] = [(("residency", "default"), options.default, False)]
    named += [(("residency", "sites", name), name, True) for name in options.sites]
    named += [(("residency", "labels", name), name, True) for name in options.labels]
    named += [(("residency", "tenants", tenant), name, False) for tenant, name in options.tenants.items()]
    named += [
        (("auth", "keys", index, "sensitivity"), key.sensitivity, False)
        for index, key in enumerate(config.auth.keys)
        if key.sensitivity is not None
    ]
    for path, name, at_key in named:
        if name not in options.classes:
            hint = did_you_mean(name, options.classes)
            yield Finding(path, f'"{name}" is none of residency.classes', hint, value=name, at_key=at_key)


def _collector(config: Config) -> Iterator[Finding]:
    tracing = config.telemetry.tracing
    endpoint = tracing.otlp_endpoint
    if endpoint is not None and site_of(endpoint) == "cloud" and "site" not in tracing.model_fields_set:
        message = "the collector counts as on-premise, but its address is not a private one"
        path: KeyPath = ("telemetry", "tracing", "otlp_endpoint")
        yield Finding(path, message, "add `site: cloud`, or `site: on-premise`", endpoint, "warning")
