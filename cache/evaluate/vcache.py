"""How likely an answer of vCache fits, as its paper has it (arXiv 2502.03771): a sigmoid per answer, fitted to what was
found when the answer was nearest, taken pessimistically.

Chance that the answer fits at the cosine s: L(s; t, g) = 1 / (1 + exp(-g (s - t))). A request is explored, that is sent
to the model, with the probability tau = min over e of 1 - delta / (1 - (1 - e) L(s; t'(e), g)), where t'(e) is an upper
confidence limit of t that is exceeded with the probability e. t and g have the greatest likelihood on a grid; t'(e) is
that of the profile likelihood, the largest t whose log likelihood is at most z(1-e)^2 / 2 below the greatest. Unlike
the variance of an estimate, it is also there when no observation contradicts.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

_Floats: TypeAlias = NDArray[np.float64]

_LEAST = 6
"""Observations before an answer is served, the two below among them."""
_GIVEN = ((0.0, False), (1.0, True))
"""Taken for granted: nothing fits at the cosine 0, everything at 1."""
_T: _Floats = np.linspace(0.0, 1.0, 101)
_G: _Floats = np.geomspace(2.0, 48.0, 9)
"""Where no observation contradicts, the steepest is the likeliest. With this one as many are served as by the authors'
code, with as many errors; with twice that, more are wrong than `delta` allows."""
_E: _Floats = np.linspace(0.01, 0.5, 50)
_DROP: _Floats = np.array([NormalDist().inv_cdf(1.0 - float(e)) ** 2 / 2.0 for e in _E])


class Vote:
    """What is known of one kept answer."""

    def __init__(self) -> None:
        self._seen = list(_GIVEN)
        self._fit: tuple[_Floats, float] | None = None

    def add(self, cosine: float, *, equal: bool) -> None:
        self._seen.append((cosine, equal))
        self._fit = None

    def explore(self, cosine: float, delta: float) -> float:
        """Probability with which the model has to be asked."""
        if len(self._seen) < _LEAST:
            return 1.0
        if self._fit is None:
            self._fit = _fitted(self._seen)
        limits, steepness = self._fit
        fits = (1.0 - _E) / (1.0 + np.exp(-steepness * (cosine - limits)))
        return float(np.min(1.0 - delta / (1.0 - fits)))


def _fitted(seen: list[tuple[float, bool]]) -> tuple[_Floats, float]:
    """t'(e) for each e, and g."""
    cosines = np.array([cosine for cosine, _ in seen])
    signs = np.array([1.0 if equal else -1.0 for _, equal in seen])
    distances = (cosines - _T[:, None]) * signs
    likely = -np.logaddexp(0.0, -_G[:, None, None] * distances).sum(axis=2)
    best = int(likely.max(axis=1).argmax())
    within = likely[best][None, :] >= likely[best].max() - _DROP[:, None]
    last = len(_T) - 1 - within[:, ::-1].argmax(axis=1)
    return _T[last], float(_G[best])
