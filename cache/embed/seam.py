"""What turns a question into a vector, and what it says when it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Vector: TypeAlias = "npt.NDArray[np.float32]"
"""One row, of unit length."""

Reason: TypeAlias = Literal["busy", "timeout", "long", "failed", "unfit"]
"""`busy`: too much waits already. `long`: more tokens than the model reads. `unfit`: what came is no vector, or one of
another size than before."""


class NoVector(Exception):
    """A question has no vector, now or ever: a miss."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: Reason = reason


class EmbedderError(Exception):
    """An embedder cannot be had; the message says why and what to do about it."""


class Embedder(Protocol):
    """Texts in, vectors out: whatever waits is embedded together, and nothing blocks the loop."""

    @property
    def name(self) -> str:
        """With the revision: vectors of two names cannot be compared."""
        ...

    @property
    def dimensions(self) -> int:
        """0: not known before the first answer."""
        ...

    async def embed(self, texts: Sequence[str], *, urgent: bool = True) -> list[Vector]:
        """Their vectors, in their order. What is not urgent waits for everything that is.

        Raises:
            NoVector: for the first of them that has none.
        """
        ...

    async def aclose(self) -> None:
        """Whoever still waits gets NoVector."""
        ...


def packed(vector: Vector) -> bytes:
    """As it is kept: float16, little endian."""
    return vector.astype("<f2").tobytes()


def unpacked(data: bytes) -> Vector:
    import numpy as np

    return np.frombuffer(data, dtype="<f2").astype(np.float32)


def unit(vector: Vector) -> Vector:
    """Scaled to length 1.

    Raises:
        NoVector: it has no direction, or something in it is no number.
    """
    import numpy as np

    length = float(np.sqrt(vector @ vector))
    if not 0 < length < float("inf"):
        raise NoVector("unfit", "a vector without a length")
    return vector / np.float32(length)
