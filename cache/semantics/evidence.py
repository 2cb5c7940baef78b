"""What speaks for the likeliest answer among those of the questions near one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from cache.signals import read_signals
from cache.verify import NAMES as CUES
from cache.verify import doubt, features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cache.semantics.classes import AnswerClass, Classes
    from cache.semantics.seam import Near

SHARPNESS = 12.0
"""A neighbour that is nearer by 1 / SHARPNESS, in cosine, has e times the say."""
NAMES = (
    "always",
    "nearness",
    "lead",
    "agreement",
    "class_size",
    "class_record",
    "entry_record",
    "answers",
    "nearness_agreement",
    "all_but_equal",
    "record_agreement",
    "doubt",
    *CUES,
)
"""Of the features, in order: what the neighbourhood says, then what the two texts say, at once and one by one."""
WEIGHTS = (0.5, 2.0, 0.6, 0.7, -0.3, 0.7, 0.2, -0.7, 0.3, -0.5, 0.2, 1.5, *(0.0 for _ in CUES))
"""What each is thought to be worth before the first label."""
SCALES = (*(0.4 for _ in range(11)), 1.0, *(0.2 for _ in CUES))
"""How far off that may be: standard deviations."""
RIVAL_SHARE = 0.2
"""Of the say of all neighbours, that of an answer that is worth comparing with. It takes a fifth more comparisons, for
one hit more in a hundred calls; with 0.08, where little is asked twice, it took half as many again for nothing."""


class Group:
    """The neighbours whose answers are equal. `say`: sum of their weights, the nearest of all has 1."""

    __slots__ = ("best", "its", "say")

    def __init__(self, best: Near, its: AnswerClass | None) -> None:
        self.best = best
        self.its = its
        self.say = 0.0


class Evidence(NamedTuple):
    best: Near
    features: tuple[float, ...]
    rivals: tuple[str, ...]


def weigh(text: str, near: Sequence[Near], classes: Classes) -> Evidence:
    """`near` to a question of this text: at least one, nearest first."""
    groups, total = _groups(near, classes)
    groups.sort(key=_say, reverse=True)
    first = groups[0]
    others = [group.best.cosine for group in groups[1:]] or [near[-1].cosine - 0.05]
    agreement = _log_odds(first.say / total, len(near))
    nearness = 4.0 * (first.best.cosine - 0.8)
    size, class_record, entry_record = _records(first)
    cues = features(read_signals(text), first.best.signals or first.best.text)
    found = (
        1.0,
        nearness,
        8.0 * max(-0.3, min(0.3, first.best.cosine - max(others))),
        agreement,
        size,
        class_record,
        entry_record,
        len(groups) / 4.0 - 1.0,
        nearness * agreement,
        10.0 * max(0.0, first.best.cosine - 0.9),
        class_record * agreement,
        doubt(cues),
        *cues,
    )
    rivals = tuple([group.best.id for group in groups[1:2] if group.say >= RIVAL_SHARE * total])
    return Evidence(first.best, found, rivals)


def _groups(near: Sequence[Near], classes: Classes) -> tuple[list[Group], float]:
    groups: dict[int, Group] = {}
    total, nearest = 0.0, near[0].cosine
    for at, each in enumerate(near):
        its = classes.get(each.id)
        mark = id(its) if its is not None else -at
        group = groups.get(mark)
        if group is None:
            group = groups[mark] = Group(each, its)
        say = math.exp(SHARPNESS * (each.cosine - nearest))
        group.say += say
        total += say
    return list(groups.values()), total


def _say(group: Group) -> float:
    return group.say


def _records(group: Group) -> tuple[float, float, float]:
    its = group.its
    if its is None:
        return -1.0, -1.0, 0.0
    own = its.members[group.best.id]
    return (
        math.log(len(its.members)) / 2.0 - 1.0,
        math.log((its.record.fitted + 1.0) / (its.record.failed + 1.0)) / 2.0 - 1.0,
        math.log((own.fitted + 1.0) / (own.failed + 1.0)),
    )


def _log_odds(share: float, number: int) -> float:
    return math.log((share * number + 0.3) / ((1.0 - share) * number + 0.3))
