"""Exact intervals of shares, after Clopper and Pearson (1934)."""

from __future__ import annotations

from math import exp, lgamma, log, log1p

_STEPS = 60
_TINY = 1e-300
_CLOSE = 1e-14
_MOST_TERMS = 10_000


def clopper_pearson(count: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of a share of which `count` of `of` were seen; (0, 1) of nothing.

    However large the share really is, it lies outside in at most 1 - `confidence` of all samples.
    """
    if not 0 <= count <= of:
        raise ValueError(f"{count} of {of} is no share")
    tail = (1.0 - confidence) / 2.0
    low = _quantile(tail, count, of - count + 1) if count else 0.0
    high = _quantile(1.0 - tail, count + 1, of - count) if count < of else 1.0
    return low, high


def _quantile(share: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        if beta_cdf(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function, I_x(a, b), by Lentz's continued fraction (DLMF 8.17.22)."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - beta_cdf(1.0 - x, b, a)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a
    return front / _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    value, numerator, denominator = 1.0, 1.0, 0.0
    for term in range(1, _MOST_TERMS):
        half, odd = divmod(term, 2)
        if odd:
            step = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            step = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        denominator = 1.0 / (1.0 + step * denominator or _TINY)
        numerator = 1.0 + step / numerator or _TINY
        value *= numerator * denominator
        if abs(numerator * denominator - 1.0) < _CLOSE:
            break
    return value
