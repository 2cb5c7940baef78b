"""What the response cache did in one worker, counted."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from cache.entry import Entry

Tier = Literal["exact", "semantic", "store"]
"""Where a call is looked up, and where its answer is put."""


class Tally:
    """
    lookups: by tier and result. refusals: by tier and reason.
    saved_tokens: by deployment and `input` or `output`. saved_s, saved_nano_usd: by deployment.
    """

    def __init__(self) -> None:
        self.lookups: Counter[tuple[str, str]] = Counter()
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.saved_tokens: Counter[tuple[str, str]] = Counter()
        self.saved_s: dict[str, float] = {}
        self.saved_nano_usd: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Tally {dict(self.lookups)} refused={self.refusals.total()}>"

    def looked_up(self, tier: Literal["exact", "semantic"], *, hit: bool) -> None:
        self.lookups[(tier, "hit" if hit else "miss")] += 1

    def refused(self, tier: Tier, reason: str) -> None:
        """A call that was not looked up in `tier`, or whose answer was not kept."""
        self.refusals[(tier, reason)] += 1

    def saved(self, entry: Entry) -> None:
        """What the engine was spared, as its answer was served."""
        deployment, answer = entry.deployment, entry.answer
        self.saved_tokens[(deployment, "input")] += answer.prompt_tokens
        self.saved_tokens[(deployment, "output")] += answer.completion_tokens
        self.saved_s[deployment] = self.saved_s.get(deployment, 0.0) + entry.saved_s
        self.saved_nano_usd[deployment] += entry.nano_usd
