"""How engines are run on a Ray cluster."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.base import Name, Positive, Section


class RayOptions(Section):
    """Where on the cluster the replicas run, and how many. The pool's `replicas` is the least there are."""

    address: str = "auto"
    """Address of the cluster's head, such as `10.0.0.1:6379`; auto: the cluster of this machine; local: one that is
    started here for this pool alone."""
    max_replicas: Annotated[int, Field(ge=1, le=1024)] | None = None
    """How many replicas there may be when there is much to do; none: as many as `replicas`."""
    target_in_flight: Positive = 8.0
    """Requests running and waiting, by the engines' own metrics, for one replica; with more, another is added."""
    idle_s: Positive = 120.0
    """How long fewer replicas must have been enough before one is taken away."""
    cpus: Annotated[float, Field(ge=0)] = 1.0
    """CPUs that each replica reserves."""
    resources: dict[Name, Positive] = {}
    """More of Ray's resources that each replica reserves, such as `accelerator_type:H100: 0.001`."""
    strategy: Literal["SPREAD", "DEFAULT"] = "SPREAD"
    """Ray's scheduling strategy: over the nodes, or few nodes filled first."""
