"""What is wrong with fallbacks and hedges: names that lead nowhere, and ways that lead back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.config.models import Config, Deployment
from gateway.config.problems import Finding, KeyPath, did_you_mean


def failure_findings(config: Config) -> Iterator[Finding]:
    for name, deployment in config.deployments.items():
        here: KeyPath = ("deployments", name, "fallbacks")
        yield from _names(config, name, here)
        if _next(deployment) and deployment.attempts == 1:
            message = "with attempts 1 there is none left for a fallback"
            yield Finding(("deployments", name, "attempts"), message, "it takes 2 or more", value="1")
    yield from _cycles(config.deployments)


def _names(config: Config, name: str, here: KeyPath) -> Iterator[Finding]:
    aliases = {alias: key for key, deployment in config.deployments.items() for alias in deployment.aliases}
    for reason, others in config.deployments[name].fallbacks:
        for index, other in enumerate(others):
            where = (*here, reason, index)
            if other in aliases:
                yield Finding(where, f'"{other}" is an alias', f'write "{aliases[other]}"', value=other)
            elif other not in config.deployments:
                hint = did_you_mean(other, config.deployments)
                yield Finding(where, f'"{other}" is no deployment', hint, value=other)


def _next(deployment: Deployment) -> dict[str, tuple[str, int]]:
    """The fallbacks of all reasons: name to reason and place in its list."""
    return {name: (reason, index) for reason, names in deployment.fallbacks for index, name in enumerate(names)}


def _cycles(deployments: Mapping[str, Deployment]) -> Iterator[Finding]:
    """One finding for each fallback that closes a circle (A19)."""
    done: set[str] = set()
    for start in deployments:
        yield from _walk(start, [], done, deployments)


def _walk(name: str, path: list[str], done: set[str], deployments: Mapping[str, Deployment]) -> Iterator[Finding]:
    if name in done or name not in deployments:
        return
    path = [*path, name]
    for other, (reason, index) in _next(deployments[name]).items():
        if other in path:
            circle = " → ".join([*path[path.index(other) :], other])
            where: KeyPath = ("deployments", name, "fallbacks", reason, index)
            yield Finding(where, f"fallbacks lead in a circle: {circle}", "take one of them out", value=other)
        else:
            yield from _walk(other, path, done, deployments)
    done.add(name)
