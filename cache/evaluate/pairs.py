"""Labelled pairs: how many paraphrases a score lets through, and how many traps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import msgspec

SHARES = (0.5, 0.57, 0.75, 0.9)
"""Of the paraphrases that are to be served: for each the cut, and what of the traps is served then."""
PRECISIONS = (0.95, 0.99)


class Cut(msgspec.Struct, frozen=True):
    """What would be served from a score on; shares of the pairs of that sort."""

    score: float
    paraphrases: float
    traps: float
    traps_by_kind: dict[str, float]


class Separation(msgspec.Struct, frozen=True):
    """How well a score tells paraphrases from traps.

    `auc`: chance that a paraphrase has the higher score; 0.5 says nothing. `recall`: by precision, the share of
    paraphrases that are served where that share of what is served is right."""

    auc: float
    recall: dict[str, float]
    cuts: tuple[Cut, ...]


def separation(scores: Sequence[float], equal: Sequence[bool], kinds: Sequence[str]) -> Separation:
    """Of pairs with a score each, by whether they are equal, and the kind that the file gives them.

    Raises:
        ValueError: there are no pairs of one of the two sorts.
    """
    paraphrases, traps = sum(equal), len(equal) - sum(equal)
    if not paraphrases or not traps:
        raise ValueError(f"{paraphrases} paraphrases and {traps} traps: both are needed")
    steps = _steps(scores, equal)
    return Separation(
        _auc(steps, paraphrases, traps),
        {f"{share:.2f}": _recall(steps, share, paraphrases) for share in PRECISIONS},
        tuple(cut_at(_cut_for(steps, share * paraphrases), scores, equal, kinds) for share in SHARES),
    )


def cut_at(score: float, scores: Sequence[float], equal: Sequence[bool], kinds: Sequence[str]) -> Cut:
    """What a cut there serves."""
    served = [one >= score for one in scores]
    traps = [(kind, through) for kind, through, same in zip(kinds, served, equal, strict=True) if not same]
    named = sorted({kind for kind, _ in traps} - {""})
    return Cut(
        score,
        _share([through for through, same in zip(served, equal, strict=True) if same]),
        _share([through for _, through in traps]),
        {kind: _share([through for of, through in traps if of == kind]) for kind in named},
    )


def _share(served: Sequence[bool]) -> float:
    return sum(served) / max(len(served), 1)


Step = tuple[float, int, int]
"""A score, and how many paraphrases and traps have at least it."""


def _steps(scores: Sequence[float], equal: Sequence[bool]) -> list[Step]:
    """From the highest score down. Pairs with one score are served together."""
    found: list[Step] = []
    paraphrases = traps = 0
    ordered = sorted(zip(scores, equal, strict=True), reverse=True)
    for score, same in groupby(ordered, key=lambda pair: pair[0]):
        here = [one for _, one in same]
        paraphrases += sum(here)
        traps += len(here) - sum(here)
        found.append((score, paraphrases, traps))
    return found


def _auc(steps: Sequence[Step], paraphrases: int, traps: int) -> float:
    area = 0.0
    before, passed = 0, 0
    for _, right, wrong in steps:
        area += (wrong - passed) * (before + right) / 2.0
        before, passed = right, wrong
    return area / (paraphrases * traps)


def _recall(steps: Sequence[Step], precision: float, paraphrases: int) -> float:
    return max((right for _, right, wrong in steps if right >= precision * (right + wrong)), default=0) / paraphrases


def _cut_for(steps: Sequence[Step], wanted: float) -> float:
    """The highest score that serves so many paraphrases."""
    return next(score for score, right, _ in steps if right >= wanted)
