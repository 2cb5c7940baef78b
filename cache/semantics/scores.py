"""How likely an answer fits, learned label by label."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

FARTHEST = 12.0
"""Log-odds beyond which nothing is surer."""
FLATTEST = 1e-4
"""Least variance of a label that an update reckons with: none is without any weight."""


class ModelState(msgspec.Struct):
    """`spread`: covariance of the weights, row by row; whole, for its halves differ in their last digits."""

    weights: list[float]
    spread: list[list[float]]


class Model:
    """Logistic regression, updated by each label as by a Kalman filter (Newton's step with the covariance of all
    labels so far): as good as a fit to all of them, for d x d multiplications each and no pause for a refit.

    `weights`, `scales`: means and standard deviations of the weights before the first label. `pace`: what the variance
    of a weight grows by with each label, as a share of that of before; so old labels count less and less."""

    __slots__ = ("_pace", "_scales", "_spread", "weights")

    def __init__(self, weights: Sequence[float], scales: Sequence[float], *, pace: float = 0.0) -> None:
        self._pace = [pace * scale * scale for scale in scales]
        self._scales = tuple(scales)
        self.weights = list(weights)
        self._spread: list[list[float]] = []
        self.doubt()

    def doubt(self) -> None:
        """Hold on to the weights, but trust them no more than before the first label: something has changed."""
        size = len(self._scales)
        self._spread = [[0.0] * size for _ in range(size)]
        for at, scale in enumerate(self._scales):
            self._spread[at][at] = scale * scale

    def odds(self, features: Sequence[float]) -> float:
        """Logarithm of the odds that the answer fits."""
        total = sum([weight * feature for weight, feature in zip(self.weights, features, strict=True)])
        return max(-FARTHEST, min(FARTHEST, total))

    def probability(self, features: Sequence[float]) -> float:
        return 1.0 / (1.0 + math.exp(-self.odds(features)))

    def learn(self, features: Sequence[float], fits: bool) -> None:
        chance = self.probability(features)
        pull = [sum([a * b for a, b in zip(row, features, strict=True)]) for row in self._spread]
        variance = max(chance * (1.0 - chance), FLATTEST)
        shrunk = 1.0 + variance * sum([a * b for a, b in zip(pull, features, strict=True)])
        step = ((1.0 if fits else 0.0) - chance) / shrunk
        self.weights = [weight + step * each for weight, each in zip(self.weights, pull, strict=True)]
        share = variance / shrunk
        spread = []
        for at, row in enumerate(self._spread):
            part = share * pull[at]
            spread.append([value - part * each for value, each in zip(row, pull, strict=True)])
            spread[at][at] += self._pace[at]
        self._spread = spread

    def snapshot(self) -> ModelState:
        return ModelState(list(self.weights), [list(row) for row in self._spread])

    def restore(self, state: ModelState) -> bool:
        """Whether it was the state of a model with as many features; else nothing changes."""
        size = len(self._scales)
        if len(state.weights) != size or len(state.spread) != size:
            return False
        self.weights = list(state.weights)
        self._spread = [list(row) for row in state.spread]
        return True
