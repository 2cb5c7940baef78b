"""Bets against what must not be: limits that hold for few observations, and looked at at any time. Proofs: ADR 13.

A wealth that starts at 1, is never negative and does not grow on average exceeds 1 / x with a probability of x at most,
at any time (Ville 1939). So a bet that is fair, or worse, while something is true says how sure it is that it is not.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

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


TILTS = (2.4, 0.6, 0.3, 0.15, 0.07, 0.025)
"""What a wrong hit that nobody audited adds to the logarithm of each wealth that is bet against the account."""
BETS = tuple(math.log(part) for part in (0.4, 0.05, 0.25, 0.2, 0.07, 0.03))
"""Logarithms of the parts that are bet so at first."""


@lru_cache(maxsize=4096)
def costs(chance: float) -> tuple[float, ...]:
    """What a wrong hit that was audited, with that chance, takes from the logarithm of each wealth: so much that the
    mean of its factor is 1. Infinite where the chance is too low for the bet."""
    left = [1 - (1 - chance) * math.exp(tilt) for tilt in TILTS]
    return tuple(math.log(chance / share) if share > 0 else math.inf for share in left)


def fair(bets: Sequence[float], chance: float) -> list[float]:
    """Logarithms of the wealths, should no unseen hit be wrong, before hits with that chance. A bet for which it is too
    low is over; what it had is bet less steeply from then on."""
    left, passed_on = [], -math.inf
    for bet, cost in zip(bets, costs(chance), strict=True):
        stake = _sum(bet, passed_on)
        over = cost == math.inf
        passed_on = stake if over else -math.inf
        left.append(-math.inf if over else stake)
    return left


def charged(bets: Sequence[float], chance: float, found: float = 1) -> list[float]:
    """What is left of them when so many audits, with that chance, found a wrong hit. Where it is too low for a bet that
    is not over, for audits got lost, the cost is twice the unseen ones to be expected for it."""
    many = 2 * (1 / chance - 1)
    return [
        bet - found * (cost if cost < math.inf else many * tilt)
        for bet, tilt, cost in zip(bets, TILTS, costs(chance), strict=True)
    ]


def unseen_wrong(bets: Sequence[float], confidence: float) -> float:
    """How many hits that nobody audited can be wrong, at all times together.

    Nothing is assumed of which hits are wrong, an opponent who sees all audits so far may choose: only the coins of the
    audits are random. The wealth is the sum of exp(bet + tilt x unseen); it never grows on average, so more than
    1 / (1 - confidence) is never reached but with probability 1 - confidence."""
    limit = -math.log1p(-confidence)
    return min((limit - bet) / tilt for bet, tilt in zip(bets, TILTS, strict=True))


def _sum(one: float, other: float) -> float:
    """Of what these are the logarithms of."""
    low, high = sorted((one, other))
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def steadiness(share: float) -> float:
    """x, with which an account of `room` is used up with a probability of exp(-x room) at most, when each hit pays 1
    into it and is wrong, at a price of 1 / limit, with a probability of `share` of that limit (Lundberg's exponent)."""
    low, high = 0.0, 10.0
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (middle, high) if share * math.expm1(middle) < middle else (low, middle)
    return low
