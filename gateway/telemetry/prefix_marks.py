"""Which prompts begin alike, for the access log: keyed hashes of ever longer beginnings."""

from __future__ import annotations

from hashlib import blake2b

from router.prefix import Prefix

FIRST_TOKENS = 64
GROWTH = 1.25
"""Each mark stands for so many times the tokens of the one before it: what two prompts share is told to within that."""
MAX_TOKENS = 2**20
_DIGEST_BYTES = 4


def _ladder() -> tuple[int, ...]:
    steps, tokens = [], float(FIRST_TOKENS)
    while tokens <= MAX_TOKENS:
        steps.append(round(tokens))
        tokens *= GROWTH
    return tuple(steps)


LADDER = _ladder()


def marks(prefix: Prefix, secret: bytes) -> list[str]:
    """`tokens:hash`, from short to long. Two prompts with the same mark begin with the same so many tokens.

    Without the secret nobody can tell whether a prompt that they guess was asked. 32 bits are enough: a mark counts only
    where all shorter ones are equal.
    """
    told: list[str] = []
    last = 0
    for tokens in LADDER:
        count = round(tokens / prefix.block_tokens)
        if count > len(prefix.keys):
            break
        if count > last:
            digest = blake2b(prefix.keys[count - 1].to_bytes(8), digest_size=_DIGEST_BYTES, key=secret[:64])
            told.append(f"{round(count * prefix.block_tokens)}:{digest.hexdigest()}")
            last = count
    return told
