"""What the decision about one question is made of, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

if TYPE_CHECKING:
    from cache.signals import Signals

State = Literal["cold", "learning", "certified", "alarmed"]


@dataclass(frozen=True, slots=True)
class Bound:
    """What a cohort has to hold. `max_wrong_hit_rate` and `audit_share` are shares, `confidence` a probability."""

    max_wrong_hit_rate: float = 0.01
    confidence: float = 0.95
    audit_share: float = 0.03
    neighbours: int = 8


class Near(NamedTuple):
    """A kept question that lies near the asked one. `cosine` of their vectors; `signals` read from its text when it
    was kept, None: read them now."""

    id: str
    text: str
    cosine: float
    signals: Signals | None = None


class Look(msgspec.Struct, frozen=True):
    """What a cohort says to one question. It travels in the journal with the label, so that every worker learns from
    what was known when it was asked.

    `candidate`: id of the entry whose answer would be served; empty: none is near.
    `score`: higher is surer; its scale means nothing by itself. `serves`: whether the answer may be served.
    `bound`: upper limit, with the cohort's confidence, of the share of wrong answers among those served; 1 without one.
    `cut`: the score from which on answers are served, infinite while none may be.
    `wanted`: probability with which a label is wanted, of a hit (by an audit) or of a miss.
    `rivals`: entries with other answers, likeliest first, worth comparing with a fresh one that turns out not to equal
    the candidate's, up to the first that it equals."""

    candidate: str = ""
    score: float = 0.0
    cosine: float = 0.0
    features: tuple[float, ...] = ()
    serves: bool = False
    bound: float = 1.0
    cut: float = float("inf")
    wanted: float = 0.0
    rivals: tuple[str, ...] = ()

    def rival(self, entry_id: str) -> Look:
        """What to file the comparison with a rival's answer under: it tells which answers are equal, and nothing about
        the score."""
        return Look(candidate=entry_id)


class CohortStatus(msgspec.Struct, frozen=True):
    """Where a cohort stands. `interval`: Clopper-Pearson limits of the share of wrong ones among the audited hits."""

    state: State
    cut: float
    bound: float
    labels: int
    hits: int
    audited: int
    audited_wrong: int
    interval: tuple[float, float]
