"""What the cache would go by for a pair before anything is learned."""

from __future__ import annotations

from collections.abc import Sequence

from cache.evaluate.data import Pair
from cache.evaluate.vectors import KeptVectors
from cache.semantics.cohort import Cohort
from cache.semantics.seam import Bound, Near
from cache.verify import features, prior, veto

_VETOED = -1.0
"""Below every cosine of two questions that are alike at all."""


def scores(pairs: Sequence[Pair], vectors: KeptVectors) -> dict[str, list[float]]:
    """By name: the cosine; the cosine of pairs that no exact cue contradicts, the others last; the same with what the
    cues make of it, which is what is thought before any label; and the score of a cohort that has seen nothing."""
    a, b = vectors.of([pair.a for pair in pairs]), vectors.of([pair.b for pair in pairs])
    cosines: list[float] = (a * b).sum(axis=1).tolist()
    cues = [features(pair.a, pair.b) for pair in pairs]
    kept = [(cosine, prior(cosine, one), bool(veto(one))) for cosine, one in zip(cosines, cues, strict=True)]
    return {
        "cosine": cosines,
        "cosine and vetoes": [_VETOED if no else cosine for cosine, _, no in kept],
        "cues and vetoes": [_VETOED if no else likely for _, likely, no in kept],
        "score": list(map(_scored, pairs, cosines)),
    }


def _scored(pair: Pair, cosine: float) -> float:
    cohort = Cohort(Bound())
    cohort.added(kept := "0" * 32, pair.a)
    return cohort.look(pair.b, [Near(kept, pair.a, cosine)]).score
