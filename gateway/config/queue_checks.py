"""What is odd with `queue`: shares and classes for those who cannot call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from gateway.config.models import Config
from gateway.config.problems import Finding, KeyPath, did_you_mean


def queue_findings(config: Config) -> Iterator[Finding]:
    if config.database is not None or config.auth.jwt:
        return  # these may have them all
    tenants = {key.tenant for key in config.auth.keys} | config.tenants.keys() or {"default"}
    keys = [key.name for key in config.auth.keys]
    for name, deployment in config.deployments.items():
        here: KeyPath = ("deployments", name, "queue")
        yield from _named((*here, "weights"), deployment.queue.weights, tenants, "tenant of any key")
        yield from _named((*here, "classes"), deployment.queue.classes, keys, "key of auth.keys")


def _named(here: KeyPath, given: Mapping[str, float], known: Iterable[str], what: str) -> Iterator[Finding]:
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            yield Finding((*here, name), f'"{name}" is no {what}', hint, name, "warning", at_key=True)
