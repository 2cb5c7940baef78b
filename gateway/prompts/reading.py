"""What a call's prompt was read as, kept with the call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.prompts.facts import PromptFacts


class Reading(NamedTuple):
    """by: the reader, which alone may take it for its own. block_tokens: the sizes of blocks that it was asked for."""

    by: object
    block_tokens: Sequence[int]
    facts: PromptFacts
