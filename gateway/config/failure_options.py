"""What a deployment does when its replicas fail, are full or are slow."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.base import Name, Positive, Section


class Fallbacks(Section):
    """Deployments that answer in place of this one, by reason, tried in this order. They share the attempts and the
    time of the request, and a caller who may call this deployment may be answered by them."""

    error: list[Name] = []
    """No replica gave an answer: unreachable, broken off, failed or timed out."""
    overloaded: list[Name] = []
    """Every replica that was asked is full."""
    context_length: list[Name] = []
    """The request does not fit the engine's context."""
    policy: list[Name] = []
    """The engine's content filter refused the request."""


class Hedge(Section):
    """A second attempt at another replica while the first has given no byte. The first byte wins; the other attempt is
    cancelled."""

    after: Literal["p95"] | Positive = "p95"
    """Seconds without a byte before the second attempt; `p95`: the 95th percentile of what the deployment's answers
    took of late."""
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Second attempts, as a share of the deployment's requests."""
