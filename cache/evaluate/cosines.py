"""Cosines of each question of a stream to all before it, exact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]

_ROWS = 256
"""Computed at once: a block of them against 100,000 questions takes 100 MB."""


def rows(vectors: Floats, order: Sequence[int]) -> Iterator[Floats]:
    """For each question in this order, its cosines to those before it, in this order."""
    ordered = vectors[list(order)]
    for begin in range(0, len(ordered), _ROWS):
        block = ordered[begin : begin + _ROWS] @ ordered[: begin + _ROWS].T
        for number, row in enumerate(block):
            yield row[: begin + number]
