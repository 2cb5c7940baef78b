"""Upper limits of shares and counts that hold for any number of observations, looked at at any time. Proofs: ADR 13."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS = 60
"""Of a bisection: more digits than a float has."""


class Stratum(NamedTuple):
    """Looks with scores in one bin. `share`: of the traffic, any scale. `labels` of them, `wrong` of those; both may be
    fractions, of what is forgotten little by little."""

    share: float
    labels: float
    wrong: float


def pooled_upper(strata: Sequence[Stratum], evidence: float, confidence: float) -> float:
    """The largest share of wrong ones over all strata, weighed by their traffic, that the labels do not rule out.

    `evidence`: log-likelihood of the labels under predictions that were each made before its label. Against it, rates
    `p` are ruled out whose own log-likelihood is lower by log(1 / (1 - confidence)): the ratio of the two is a
    non-negative martingale under the true rates, so by Ville's inequality it never gets so large but with probability
    `1 - confidence`. Maximises the sum of share x p over all `p` that are left, by its Lagrangian."""
    total = sum(stratum.share for stratum in strata)
    if total <= 0:
        return 1.0
    limit = -math.log1p(-confidence) - evidence
    low, high = -30.0, 30.0  # of the logarithm of the multiplier
    for _ in range(STEPS):
        middle = (low + high) / 2
        if _surprise(strata, math.exp(middle) / total) < limit:
            low = middle
        else:
            high = middle
    rates = _rates(strata, math.exp(high) / total)
    return min(1.0, sum(stratum.share * rate for stratum, rate in zip(strata, rates, strict=True)) / total)


def _rates(strata: Sequence[Stratum], pull: float) -> list[float]:
    """The rates that a multiplier of the labels' likelihood leads to: c p^2 + (n - c) p - k = 0 for each stratum."""
    rates = []
    for share, labels, wrong in strata:
        c = share * pull
        if labels <= 0:
            rates.append(1.0)
        elif c < 1e-12 * labels:
            rates.append(wrong / labels)
        else:
            half = c - labels
            rates.append(min(1.0, (half + math.sqrt(half * half + 4 * c * wrong)) / (2 * c)))
    return rates


def _surprise(strata: Sequence[Stratum], pull: float) -> float:
    """Minus the log-likelihood of the labels under those rates."""
    total = 0.0
    for (_, labels, wrong), rate in zip(strata, _rates(strata, pull), strict=True):
        right = labels - wrong
        if wrong > 0:
            total -= wrong * math.log(max(rate, 1e-300))
        if right > 0 and labels > 0:
            total -= right * math.log1p(-min(rate, 1 - 1e-15))
    return total


class Unaudited(NamedTuple):
    """Hits that nobody looked at. `chance`: with which each would have been, in [0, 1). `hits`: how many."""

    chance: float
    hits: float


TILTS = ((0.0, 0.5), (0.1, 0.1), (0.25, 0.1), (0.5, 0.1), (0.7, 0.1), (0.85, 0.1))
"""Shares of their chance at which audits may have found wrong hits, and how much is bet on each."""


def unseen_wrong(unaudited: Sequence[Unaudited], found: int, confidence: float) -> float:
    """How many of the unaudited hits can be wrong, when `found` wrong ones were audited that might not have been.

    Nothing is assumed of which hits are wrong, an opponent who sees all audits so far may choose: only the coins of the
    audits are random. For a share h, every wrong hit multiplies a wealth by h if audited and by (1 - h a) / (1 - a) if
    not, a being its chance: a fair bet, so more than 1 / (1 - confidence) is never reached but with probability
    1 - confidence. The most wrong ones that are left are those with the lowest chances."""
    limit = -math.log1p(-confidence)
    if _wealth(unaudited, math.inf, found) < limit:
        return sum(stratum.hits for stratum in unaudited)
    low, high = 0.0, sum(stratum.hits for stratum in unaudited)
    while high - low > 0.01 * low + 0.1:
        middle = (low + high) / 2
        if _wealth(unaudited, middle, found) < limit:
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
        for chance, hits in sorted(unaudited):
            taken = min(left, hits)
            wealth += taken * math.log((1 - share * chance) / (1 - chance))
            left -= taken
        logs.append(wealth)
    top = max(logs)
    return top + math.log(sum(math.exp(wealth - top) for wealth in logs))
