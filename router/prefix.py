"""Which replica holds which leading tokens in its KV cache: known from the engine, or guessed from what it was sent.

A prompt is a chain of block keys; a key stands for everything up to the end of its block. So the longest match of every
replica at once is found by bisection over one dictionary from key to the set of its holders.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ENTRY_BYTES = 280
"""Memory of one key at one replica, measured with tracemalloc: the key, its place in the order, its set of holders."""
FINE, MIDDLE = 64, 512
"""The first 64 keys of a prompt are kept, then every 8th up to the 512th, then every 64th: what is guessed of a long
prompt needs no finer grain, and its cost stays small."""
MIDDLE_STEP, COARSE_STEP = 8, 64
DEFAULT_CAPACITY_TOKENS = 131_072
"""Of a KV cache of which nothing is known."""
LEARN = 0.05
"""Weight of the newest answer in the trust that a guess deserves."""
LEAST_TRUST = 0.05
"""Below that an engine is taken to cache no prefixes."""


class Certainty(enum.StrEnum):
    """How what a replica holds is known."""

    EXACT = "exact"
    """The engine tells of every block."""
    PREDICTED = "predicted"
    """From what the replica was sent, and what its answers say of it."""
    NONE = "none"
    """Not at all."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prompt as the index sees it.

    keys:         one per full block, each standing for all tokens up to the end of its block.
    block_tokens: length of a block in tokens.
    """

    keys: Sequence[int] = ()
    block_tokens: float = 16.0


def sparse(keys: Sequence[int]) -> list[int]:
    """Those of `keys` that guesses are made with; which ones depends on their position alone."""
    few = list(keys[:FINE])
    if len(keys) > FINE:
        few += keys[FINE + MIDDLE_STEP - 1 : MIDDLE : MIDDLE_STEP]
        few += keys[MIDDLE + COARSE_STEP - 1 :: COARSE_STEP]
    return few


_MIDDLE_END = FINE + (MIDDLE - FINE) // MIDDLE_STEP


def blocks_up_to(position: int) -> int:
    """Blocks that the sparse key at `position` stands for."""
    if position < FINE:
        return position + 1
    if position < _MIDDLE_END:
        return FINE + MIDDLE_STEP * (position - FINE + 1)
    return MIDDLE + COARSE_STEP * (position - _MIDDLE_END + 1)


class Slot:
    """One replica's part of the index. Made by `PrefixIndex.open`.

    capacity_tokens: of its KV cache, as far as is known; what is guessed beyond it is forgotten, the oldest first.
    trust: share of the guessed tokens that the engine's answers confirmed of late.
    """

    __slots__ = (
        "_answers",
        "_fits_tokens",
        "bit",
        "capacity_tokens",
        "certainty",
        "exact",
        "history",
        "tokens",
        "trust",
    )

    def __init__(self, bit: int, capacity_tokens: int) -> None:
        self.bit = bit
        self.certainty = Certainty.PREDICTED
        self.exact: set[int] = set()
        self.history: OrderedDict[int, float] = OrderedDict()
        """Sparse keys, the least recently used first, with the tokens that each adds to the one before it."""
        self.tokens = 0.0
        self.trust = 1.0
        self.capacity_tokens = capacity_tokens
        self._fits_tokens = float(capacity_tokens or DEFAULT_CAPACITY_TOKENS)
        self._answers = 0

    def __repr__(self) -> str:
        return (
            f"<Slot {self.bit} {self.certainty} exact={len(self.exact)} history={len(self.history)} "
            f"trust={self.trust:.2f}>"
        )

    @property
    def entries(self) -> int:
        return len(self.exact) + len(self.history)

    @property
    def fits_tokens(self) -> float:
        """How much it seems to hold."""
        return self._fits_tokens

    def resize(self, capacity_tokens: int) -> None:
        """The engine told the size of its KV cache."""
        if capacity_tokens != self.capacity_tokens:
            self.capacity_tokens = capacity_tokens
            self._fits_tokens = float(capacity_tokens or DEFAULT_CAPACITY_TOKENS)

    def answered(self, predicted_tokens: int, cached_tokens: int) -> None:
        """The engine said how many tokens of a prompt it had; it was believed to have `predicted_tokens`."""
        if self.certainty is Certainty.EXACT or predicted_tokens <= 0:
            return
        self._answers += 1
        share = min(1.0, cached_tokens / predicted_tokens)
        self.trust += LEARN * (share - self.trust)
        if share < 0.5:
            self._fits_tokens = max(self._fits_tokens * 0.97, 1024.0)
        elif self.tokens > 0.9 * self._fits_tokens and (
            not self.capacity_tokens or self._fits_tokens < self.capacity_tokens
        ):
            self._fits_tokens *= 1.01
        if self._answers >= 1.0 / LEARN:
            self.certainty = Certainty.NONE if self.trust < LEAST_TRUST else Certainty.PREDICTED


class PrefixIndex:
    """For the replicas of one variant. Bounded in bytes: past them the replica with the most keys forgets its oldest.

    What engines tell is not forgotten: it is bounded by their KV caches.
    """

    def __init__(self, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._max_entries = max_bytes // ENTRY_BYTES
        self._slots: list[Slot | None] = []
        self._exact: dict[int, int] = {}
        self._guessed: dict[int, int] = {}
        self._entries = 0

    def __repr__(self) -> str:
        return f"<PrefixIndex entries={self._entries} slots={[s for s in self._slots if s is not None]}>"

    @property
    def size_bytes(self) -> int:
        return self._entries * ENTRY_BYTES

    def open(self, capacity_tokens: int = 0) -> Slot:
        """A place for a replica that comes. `capacity_tokens`: of its KV cache; 0: unknown."""
        free = next((i for i, slot in enumerate(self._slots) if slot is None), len(self._slots))
        slot = Slot(free, capacity_tokens)
        self._slots[free : free + 1] = [slot]
        return slot

    def close(self, slot: Slot) -> None:
        """The replica is gone."""
        self.clear(slot)
        self._slots[slot.bit] = None

    def match(self, prefix: Prefix) -> list[int]:
        """Leading tokens of the prompt that each replica holds, by `Slot.bit`."""
        found = [0] * len(self._slots)
        keys = prefix.keys
        if not keys:
            return found
        if self._exact:
            depths = _depths(keys, self._exact)
            for bit, depth in depths:
                found[bit] = int(depth * prefix.block_tokens)
        for bit, depth in _depths(sparse(keys), self._guessed):
            slot = self._slots[bit]
            if slot is not None and slot.certainty is not Certainty.NONE:
                trust = slot.trust if slot.certainty is Certainty.PREDICTED else 1.0
                tokens = int(blocks_up_to(depth - 1) * prefix.block_tokens * trust)
                found[bit] = max(found[bit], tokens)
        return found

    # What is guessed

    def insert(self, slot: Slot, prefix: Prefix) -> None:
        """The replica is sent this prompt: it will hold it."""
        history, mask, guessed = slot.history, 1 << slot.bit, self._guessed
        keys = sparse(prefix.keys)
        for position in range(len(keys) - 1, -1, -1):  # the end of a prompt is forgotten before its beginning
            key = keys[position]
            if key in history:
                history.move_to_end(key)
                continue
            before = blocks_up_to(position - 1) if position else 0
            tokens = (blocks_up_to(position) - before) * prefix.block_tokens
            history[key] = tokens
            slot.tokens += tokens
            guessed[key] = guessed.get(key, 0) | mask
            self._entries += 1
        self._shrink(slot)

    def forget(self, slot: Slot, prefix: Prefix) -> None:
        """The replica does not hold what was guessed of this prompt, or tells of it itself by now."""
        for key in sparse(prefix.keys):
            tokens = slot.history.pop(key, None)
            if tokens is not None:
                slot.tokens -= tokens
                self._drop(self._guessed, key, slot)

    # What engines tell

    def stored(self, slot: Slot, keys: Iterable[int]) -> None:
        exact, mask, known = self._exact, 1 << slot.bit, slot.exact
        before = len(known)
        for key in keys:
            known.add(key)
            exact[key] = exact.get(key, 0) | mask
        self._entries += len(known) - before

    def removed(self, slot: Slot, keys: Iterable[int]) -> None:
        for key in keys:
            if key in slot.exact:
                slot.exact.remove(key)
                self._drop(self._exact, key, slot)

    def clear(self, slot: Slot) -> None:
        """The replica holds nothing."""
        self.removed(slot, list(slot.exact))
        while slot.history:
            self._forget_oldest(slot)
        slot.tokens = 0.0

    def certain(self, slot: Slot, certainty: Certainty) -> None:
        """How the replica is known from now on. What it was known to hold is a guess once nobody tells of it."""
        if certainty is not Certainty.EXACT and slot.exact:
            known = list(slot.exact)
            self.removed(slot, known)
            share = slot.fits_tokens / len(known) if known else 0.0
            for key in known:
                if key not in slot.history:
                    slot.history[key] = min(share, 16.0)
                    slot.tokens += slot.history[key]
                    self._guessed[key] = self._guessed.get(key, 0) | 1 << slot.bit
                    self._entries += 1
            self._shrink(slot)
        slot.certainty = certainty

    # Bounds

    def _shrink(self, slot: Slot) -> None:
        while slot.tokens > slot.fits_tokens and slot.history:
            self._forget_oldest(slot)
        while self._entries > self._max_entries:
            fullest = max((s for s in self._slots if s is not None), key=lambda s: len(s.history))
            if not fullest.history:
                return
            for _ in range(min(len(fullest.history), 64)):
                self._forget_oldest(fullest)

    def _forget_oldest(self, slot: Slot) -> None:
        key, tokens = slot.history.popitem(last=False)
        slot.tokens -= tokens
        self._drop(self._guessed, key, slot)

    def _drop(self, holders: dict[int, int], key: int, slot: Slot) -> None:
        self._entries -= 1
        left = holders[key] & ~(1 << slot.bit)
        if left:
            holders[key] = left
        else:
            del holders[key]


def _depths(keys: Sequence[int], holders: dict[int, int]) -> list[tuple[int, int]]:
    """(bit, how many leading keys it holds) for each that holds any."""
    get = holders.get
    first = get(keys[0], 0)
    if not first:
        return []
    depths: list[tuple[int, int]] = []
    last = len(keys) - 1
    spans = [(0, last, first, get(keys[last], 0) & first)]
    _note(depths, spans[0][3], last + 1)
    while spans:
        low, high, at_low, at_high = spans.pop()
        lost = at_low & ~at_high
        if not lost:
            continue
        if high - low <= 1:
            _note(depths, lost, low + 1)
            continue
        middle = (low + high) // 2
        at_middle = get(keys[middle], 0) & at_low | at_high
        spans.append((low, middle, at_low, at_middle))
        spans.append((middle, high, at_middle, at_high))
    return depths


def _note(depths: list[tuple[int, int]], mask: int, depth: int) -> None:
    while mask:
        lowest = mask & -mask
        depths.append((lowest.bit_length() - 1, depth))
        mask ^= lowest
