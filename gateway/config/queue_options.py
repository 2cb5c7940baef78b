"""What a deployment does with requests for which no replica has a place."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.config.base import Name, Positive, Section

LOWEST_CLASS = 9
Class = Annotated[int, Field(ge=0, le=LOWEST_CLASS)]


class QueueOptions(Section):
    """Requests wait in the gateway for a place at a replica: by class, then fair shares of tenants, then by age."""

    max_waiting: Annotated[int, Field(ge=0)] = 1000
    """Requests that wait at once, per gateway worker; more get 503. 0: nobody waits."""
    max_wait_s: Positive = 60.0
    """How long a request waits; after that it gets 503."""
    hold_over_s: Positive = 2.0
    """A replica gets no more requests while it has prompts ahead that take longer than this, as predicted."""
    age_s: Annotated[float, Field(ge=0.1)] = 10.0
    """A request that has waited this long rises by a class, and so on, up to the best class that waits."""
    weights: dict[Name, Positive] = {}
    """Shares of tenants, in place of their `weight`: of service, and of the queue's places when it is full."""
    classes: dict[Name, Class] = {}
    """Class of each key's requests, by the key's name; all others have the `priority` of their tenant. A lower number
    goes first, always."""
    objectives: dict[Name, Class] = {}
    """Classes that the header `x-gateway-inference-objective` may name. It can lower a request, never raise it."""
