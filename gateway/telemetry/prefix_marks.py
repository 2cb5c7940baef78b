"""Which prompts begin alike, for the access log: keyed hashes of ever longer beginnings."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

GROWTH = 1.25
"""Each mark stands for so many times the blocks of the one before it: what two prompts share is told to within that."""
MAX_BLOCKS = 2**16
_DIGEST_BYTES = 4


def _ladder() -> tuple[int, ...]:
    steps, blocks = [1], 1.0
    while blocks <= MAX_BLOCKS:
        if round(blocks) > steps[-1]:
            steps.append(round(blocks))
        blocks = max(blocks + 1.0, blocks * GROWTH)
    return tuple(steps)


LADDER = _ladder()


def marks(keys: Sequence[int], secret: bytes) -> list[str]:
    """`blocks:hash`, from short to long. Two prompts with the same mark begin with the same so many blocks.

    Without the secret nobody can tell whether a prompt that they guess was asked. 32 bits are enough: a mark counts
    only where all shorter ones are equal.

    Args:
        keys: one per block, each standing for all up to its end.
        secret: at most 64 bytes of it count.
    """
    told: list[str] = []
    for blocks in LADDER:
        if blocks > len(keys):
            break
        digest = blake2b(keys[blocks - 1].to_bytes(8, "little"), digest_size=_DIGEST_BYTES, key=secret[:64])
        told.append(f"{blocks}:{digest.hexdigest()}")
    return told
