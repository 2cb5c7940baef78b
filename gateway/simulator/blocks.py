"""The KV cache of a simulated engine: blocks with counts of who uses them, the rest evicted longest unused first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

Holders = dict[int, int]
"""By block key, a bit per engine that holds the block: one walk over a prompt then matches it with all engines."""


class BlockCache:
    """Prefix blocks are shared and stay when nobody uses them, until the room is needed; others are only counted.

    A key stands for the block and everything before it, so that equal keys are equal prefixes.
    """

    __slots__ = ("_bit", "_holders", "_idle", "_users", "capacity", "pinned")

    def __init__(self, capacity: int, holders: Holders, engine: int) -> None:
        self.capacity = capacity
        self.pinned = 0
        self._holders = holders
        self._bit = 1 << engine
        self._users: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<BlockCache pinned={self.pinned} idle={len(self._idle)} of {self.capacity}>"

    def match(self, keys: Sequence[int]) -> int:
        """Leading blocks that are here."""
        users, idle = self._users, self._idle
        for count, key in enumerate(keys):
            if key not in users and key not in idle:
                return count
        return len(keys)

    def pin(self, keys: Sequence[int], private: int) -> int | None:
        """Take the blocks of one request, `private` ones besides those of its prefix.

        Returns how many of the leading blocks were here already; None: there is no room for it now.
        """
        users, idle = self._users, self._idle
        more = private + sum(1 for key in keys if key not in users)
        if self.pinned + more > self.capacity:
            return None
        found = self.match(keys)
        holders, bit = self._holders, self._bit
        for key in keys:
            if key in users:
                users[key] += 1
                continue
            users[key] = 1
            if key in idle:
                del idle[key]
            else:
                holders[key] = holders.get(key, 0) | bit
        self.pinned += more
        self._evict()
        return found

    def release(self, keys: Sequence[int], private: int) -> None:
        """Give back what `pin` took. The end of a prefix is evicted before its beginning."""
        users, idle = self._users, self._idle
        freed = private
        for key in reversed(keys):
            left = users[key] - 1
            if left:
                users[key] = left
            else:
                del users[key]
                idle[key] = None
                freed += 1
        self.pinned -= freed

    def _evict(self) -> None:
        idle, holders, bit = self._idle, self._holders, self._bit
        for _ in range(len(idle) + self.pinned - self.capacity):
            key, _none = idle.popitem(last=False)
            left = holders[key] & ~bit
            if left:
                holders[key] = left
            else:
                del holders[key]
