"""Bets against what must not be: limits that hold for few observations, and looked at at any time. Proofs: ADR 13.

A wealth that starts at 1, is never negative and does not grow on average exceeds 1 / x with a probability of x at most,
at any time (Ville 1939). So a bet that is fair, or worse, while something is true says how sure it is that it is not.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

STAKES = (0.97, 0.85, 0.65, 0.45, 0.25)
"""Shares of the wealth that one wrong label costs. The best one for a rate that is a share x of the limit is 1 - x."""
PARTS = (0.35, 0.25, 0.2, 0.1, 0.1)
"""Of the first wealth, bet so."""
LEVELS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the limit, each bet against by itself: which one falls is the bound that is stated."""
_LOG_PARTS = tuple(math.log(part) for part in PARTS)


@lru_cache(maxsize=1024)
def winnings(limit: float, weight: float, wrong: bool) -> tuple[float, ...]:
    """Logarithms of what a label multiplies each wealth with: all stakes for the first level, then for the next.

    `weight`: in (0, 1]. Factor: 1 + stake x weight x (rate - wrong). Where the share of wrong looks is `rate` or more,
    and a look is labelled with a probability proportional to 1 / weight, its mean over the looks is at most 1.
    """
    return tuple(math.log1p(stake * weight * (level * limit - wrong)) for level in LEVELS for stake in STAKES)


def log_wealth(logs: Sequence[float]) -> float:
    """Of all stakes together, from the logarithms of what came of each."""
    top = max(logs)
    return top + math.log(sum(math.exp(part + log - top) for part, log in zip(_LOG_PARTS, logs, strict=True)))


class Unaudited(NamedTuple):
    """Hits that nobody looked at. `chance`: with which each would have been, in [0, 1). `hits`: how many."""

    chance: float
    hits: float


TILTS = ((0.0, 0.4), (0.05, 0.08), (0.15, 0.1), (0.3, 0.14), (0.45, 0.14), (0.6, 0.07), (0.75, 0.07))
"""Shares of their chance at which audits may have found wrong hits, and how much is bet on each."""


def unseen_wrong(unaudited: Sequence[Unaudited], found: int, confidence: float) -> float:
    """How many of the unaudited hits can be wrong, when `found` wrong ones were audited that might not have been.

    Nothing is assumed of which hits are wrong, an opponent who sees all audits so far may choose: only the coins of the
    audits are random. For a share h, every wrong hit multiplies a wealth by h if audited and by (1 - h a) / (1 - a) if
    not, a being its chance: a fair bet, so more than 1 / (1 - confidence) is never reached but with probability
    1 - confidence. The most wrong ones that are left are those with the lowest chances."""
    limit = -math.log1p(-confidence)
    strata = sorted(unaudited)
    most = sum(stratum.hits for stratum in strata)
    low, high = 0.0, min(1.0, most)
    while high < most and _wealth(strata, high, found) < limit:
        low, high = high, min(2 * high, most)
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        if _wealth(strata, middle, found) < limit:
            low = middle
        else:
            high = middle
    return high


def _wealth(unaudited: Sequence[Unaudited], unseen: float, found: int) -> float:
    """Logarithm of the wealth if `unseen` of the unaudited hits are wrong, those with the lowest chances."""
    logs = []
    for share, weight in TILTS:
        if share == 0 and found:
            continue
        wealth = math.log(weight) + (found * math.log(share) if found else 0.0)
        left = unseen
        for chance, hits in unaudited:
            taken = min(left, hits)
            wealth += taken * math.log((1 - share * chance) / (1 - chance))
            left -= taken
        logs.append(wealth)
    top = max(logs)
    return top + math.log(sum(math.exp(wealth - top) for wealth in logs))
