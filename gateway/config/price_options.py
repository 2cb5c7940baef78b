"""Prices of models that the release's table does not know, or that you have agreed on otherwise."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.config.base import Section

Usd = Annotated[float, Field(ge=0)]


class PriceOptions(Section):
    """What a model costs, in USD for a million tokens. Takes the place of the release's price as a whole."""

    input: Usd
    """Tokens of the prompt."""
    output: Usd = 0.0
    """Tokens of the answer; embeddings have none."""
    cached_input: Usd | None = None
    """Of the prompt: read from the engine's prompt cache; none: as `input`."""
    cache_write: Usd | None = None
    """Of the prompt: written to the engine's prompt cache; none: as `input`."""
    reasoning: Usd | None = None
    """Of the answer: reasoning; none: as `output`."""
    batch: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of these prices that a batch costs, such as 0.5; none: all of it."""
