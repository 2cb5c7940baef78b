"""What a call may use, as it is reserved, and what it used in the end, as it is settled."""

from __future__ import annotations

import msgspec


class Cost(msgspec.Struct, frozen=True, gc=False):
    """Of one call, retries and fallbacks included.

    prompt_tokens: of the prompt.
    output_tokens: of all its answers together: as many as it may have, or is expected to.
    nano_usd:      what these cost, in billionths of a US dollar; 0 where no price is known.
    estimated:     whether the tokens are an estimate, not a count.
    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    nano_usd: int = 0
    estimated: bool = True


NOTHING = Cost()
"""No token was used, such as by a call that the engine refused, or one whose answer the cache had."""
