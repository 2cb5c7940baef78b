"""What variants offer, and when requests leave the on-premise replicas of theirs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.base import Name, Positive, Section

Capability = Literal["tools", "vision", "audio", "json_schema"]


class OfferOptions(Section):
    """Which requests a variant can serve. It gets no others, as long as another variant can serve them."""

    max_context_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens of prompt and answer that its engines take. A request that seems to need more goes to another variant, or
    to the one that takes most; none: no limit is known."""
    capabilities: list[Capability] | None = None
    """What it can do beyond text: function calls, images, sounds, answers by a JSON schema. None: everything."""
    step_down: bool = False
    """It is a smaller model, and gets requests only as `spill.step_down` says, whatever its weight."""


class SpillOptions(Section):
    """When requests leave the on-premise replicas of their variant, for a cloud or a smaller variant."""

    ttft_s: Positive
    """Target for the time to first token. As long as some on-premise replica is predicted to meet it, no cloud gets
    anything."""
    tenants: dict[Name, Positive] = {}
    """Targets of tenants that have one of their own."""
    until: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Once begun, it goes on until the prediction is under this share of the target."""
    max_usd_per_hour: Positive | None = None
    """Cost of spilled requests in any hour, by the prices of their models; evenly divided between the gateway's
    workers. At the limit requests stay on-premise. None: no limit."""
    max_usd_per_request: Positive | None = None
    """A request that is expected to cost more is not spilled; none: no limit."""
    step_down: Literal["never", "before", "after"] = "never"
    """Whether variants with `step_down: true` are asked: before a cloud is, or after, when that does not do either."""
