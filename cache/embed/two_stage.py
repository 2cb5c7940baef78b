"""A cheap table first: where nothing is near in it, nothing is near, and the transformer is not asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cache.embed.seam import Embedder
    from cache.embed.static import StaticEmbedder

LOW_CUT = 0.5
"""Cosine in the table. On Banking77 one of a thousand questions with a right neighbour (0.75 or more in MiniLM) lies
below; of unrelated questions (Quora) 56 % do among 2,000 entries, 14 % among 20,000."""


@dataclass(frozen=True, slots=True)
class TwoStage:
    """How a question is looked up: unless `first` finds something above `low_cut`, it is a miss; else `second` decides.

    An entry carries both vectors.
    """

    first: StaticEmbedder | None
    second: Embedder
    low_cut: float = LOW_CUT
    remote: bool = False
    """Whether questions leave this machine for it."""

    @property
    def name(self) -> str:
        """Of what made an entry's vectors."""
        return f"{self.second.name}+{self.first.name}" if self.first else self.second.name

    async def aclose(self) -> None:
        await self.second.aclose()
