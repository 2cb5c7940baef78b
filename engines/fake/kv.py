"""The KV cache as far as it can be seen from outside: blocks in use, and prefixes that are still there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class PrefixCache:
    """Least recently used blocks of prompts, each known by all tokens up to its end."""

    def __init__(self, block_tokens: int, capacity_blocks: int) -> None:
        self.block_tokens = block_tokens
        self.capacity_blocks = capacity_blocks
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def use(self, tokens: Sequence[bytes], salt: str = "") -> int:
        """Tokens of the prompt that were cached; the whole prompt is cached from now on.

        At least one token is always left to compute: an engine needs it to make the next one.
        """
        size = self.block_tokens
        key = hash(salt)
        hits, whole = 0, True
        for start in range(0, len(tokens) - size + 1, size):
            key = hash((key, *tokens[start : start + size]))
            whole = whole and key in self._blocks
            hits += whole
            self._blocks[key] = None
            self._blocks.move_to_end(key)
        while len(self._blocks) > self.capacity_blocks:
            self._blocks.popitem(last=False)
        return min(hits, max(0, len(tokens) - 1) // size) * size

    def clear(self) -> None:
        self._blocks.clear()

    def __len__(self) -> int:
        return len(self._blocks)
