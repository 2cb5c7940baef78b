"""Which replica holds which leading tokens in its KV cache: known from the engine, or guessed from what it was sent.

A prompt is a chain of block keys; a key stands for everything up to the end of its block. So the longest match of every
replica at once is found by bisection over one dictionary from key to the set of its holders.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ENTRY_BYTES = 480
"""Memory of one key at one replica: the key, its place in the order, its set of holders. The most that tracemalloc
showed, which is while a table grows; at rest it is half to two thirds of that."""
FINE, MIDDLE = 64, 512
"""The first 64 keys of a prompt are kept, then every 8th up to the 512th, then every 64th: what is guessed of a long
prompt needs no finer grain, and its cost stays small."""
MIDDLE_STEP, COARSE_STEP = 8, 64
DEFAULT_CAPACITY_TOKENS = 131_072
"""Of a KV cache of which nothing is known."""
LEARN = 0.05
"""Weight of the newest answer in the trust that a guess deserves."""
LEAST_TRUST = 0.05
"""Below that an engine is taken to cache no prefixes, until it says otherwise."""
LEAST_TOKENS = 1024.0
"""A replica is not taken to hold less."""


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
    return [key for few, _ in _grains(keys) for key in few]


def _grains(keys: Sequence[int]) -> list[tuple[Sequence[int], int]]:
    """The sparse keys from fine to coarse, with the blocks that each adds to the one before it."""
    if len(keys) <= FINE:
        return [(keys, 1)]
    middle = keys[FINE + MIDDLE_STEP - 1 : MIDDLE : MIDDLE_STEP]
    return [(keys[:FINE], 1), (middle, MIDDLE_STEP), (keys[MIDDLE + COARSE_STEP - 1 :: COARSE_STEP], COARSE_STEP)]


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
        "_fits_tokens",
        "bit",
        "capacity_tokens",
        "certainty",
        "exact",
        "history",
        "mask",
        "tokens",
        "trust",
        "weight",
    )

    def __init__(self, bit: int, capacity_tokens: int) -> None:
        self.bit = bit
        self.mask = 1 << bit
        self.certainty = Certainty.PREDICTED
        self.weight = 1.0
        """What a guessed token counts for."""
        self.exact: dict[int, None] = {}
        """In the order in which they were stored: the beginning of a prompt before its end."""
        self.history: OrderedDict[int, float] = OrderedDict()
        """Sparse keys, the least recently used first, with the tokens that each adds to the one before it."""
        self.tokens = 0.0
        self.trust = 1.0
        self.capacity_tokens = capacity_tokens
        self._fits_tokens = float(capacity_tokens or DEFAULT_CAPACITY_TOKENS)

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
        """The engine said how many tokens of a prompt it had; `PrefixIndex.match` had said `predicted_tokens`."""
        if self.certainty is Certainty.EXACT:
            return
        if self.certainty is Certainty.NONE and cached_tokens > 0:
            share = 1.0
        elif predicted_tokens > 0:
            share = min(1.0, cached_tokens * self.trust / predicted_tokens)  # of the guess before it was discounted
            self._fit(share)
        else:
            return
        self.trust += LEARN * (share - self.trust)
        self.believed(Certainty.NONE if self.trust < LEAST_TRUST else Certainty.PREDICTED)

    def believed(self, certainty: Certainty) -> None:
        self.certainty = certainty
        self.weight = 1.0 if certainty is Certainty.EXACT else self.trust if certainty is Certainty.PREDICTED else 0.0

    def _fit(self, share: float) -> None:
        """Learn how much it holds: less if much of what was guessed was gone, else more, up to what it told."""
        if share < 0.5:
            self._fits_tokens = min(self._fits_tokens, max(self._fits_tokens * 0.97, LEAST_TOKENS))
        elif self.tokens > 0.9 * self._fits_tokens:
            most = float(self.capacity_tokens) if self.capacity_tokens else math.inf
            self._fits_tokens = min(self._fits_tokens * 1.01, most)


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
        """The replica is gone. What is still told of it later changes nothing."""
        if self._slots[slot.bit] is slot:
            self.clear(slot)
            self._slots[slot.bit] = None

    def match(self, prefix: Prefix) -> list[int]:
        """Leading tokens of the prompt that each replica holds, by `Slot.bit`."""
        found = [0] * len(self._slots)
        keys = prefix.keys
        if not keys:
            return found
        slots = self._slots
        for mask, depth in _depths(keys, self._exact):
            tokens = int(depth * prefix.block_tokens)
            for slot in _among(slots, mask):
                found[slot.bit] = tokens
        for mask, depth in _depths(sparse(keys), self._guessed):
            guessed = blocks_up_to(depth - 1) * prefix.block_tokens
            for slot in _among(slots, mask):
                tokens = int(guessed * slot.weight)
                if tokens > found[slot.bit]:
                    found[slot.bit] = tokens
        return found

    # What is guessed

    def insert(self, slot: Slot, prefix: Prefix) -> None:
        """The replica is sent this prompt: it will hold it."""
        if self._slots[slot.bit] is not slot:
            return
        history, mask, guessed = slot.history, slot.mask, self._guessed
        for keys, blocks in reversed(_grains(prefix.keys)):  # the end of a prompt is forgotten before its beginning
            tokens, before = blocks * prefix.block_tokens, len(history)
            for key in reversed(keys):
                if key in history:
                    history.move_to_end(key)
                    continue
                history[key] = tokens
                holders = guessed.get(key)
                guessed[key] = mask if holders is None else holders | mask
            added = len(history) - before
            slot.tokens += added * tokens
            self._entries += added
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
        """The replica holds these blocks. Of one prompt, the beginning comes before the end."""
        if self._slots[slot.bit] is not slot:
            return
        exact, mask, known = self._exact, slot.mask, slot.exact
        before = len(known)
        for key in keys:
            known[key] = None
            holders = exact.get(key)
            exact[key] = mask if holders is None else holders | mask
        self._entries += len(known) - before
        self._bound()

    def removed(self, slot: Slot, keys: Iterable[int]) -> None:
        for key in keys:
            if key in slot.exact:
                del slot.exact[key]
                self._drop(self._exact, key, slot)

    def clear(self, slot: Slot) -> None:
        """The replica holds nothing."""
        self.removed(slot, list(slot.exact))
        self._forget_oldest(slot, 0.0, len(slot.history))

    def certain(self, slot: Slot, certainty: Certainty) -> None:
        """How the replica is known from now on.

        What was guessed is forgotten once the engine tells; what it told is a guess once it tells no more.
        """
        if certainty is slot.certainty:
            return
        slot.believed(certainty)
        if certainty is Certainty.EXACT:
            self._forget_oldest(slot, 0.0, len(slot.history))
        elif slot.exact:
            self._guess_on(slot)

    def _guess_on(self, slot: Slot) -> None:
        known = list(slot.exact)
        known.reverse()  # the end of a prompt is forgotten before its beginning
        self.removed(slot, known)
        tokens = min(slot.fits_tokens / len(known), 16.0)
        fresh = [key for key in known if key not in slot.history]
        for key in fresh:
            slot.history[key] = tokens
            self._guessed[key] = self._guessed.get(key, 0) | slot.mask
        slot.tokens += tokens * len(fresh)
        self._entries += len(fresh)
        self._shrink(slot)

    # Bounds

    def _shrink(self, slot: Slot) -> None:
        if slot.tokens > slot.fits_tokens:
            self._forget_oldest(slot, slot.fits_tokens, len(slot.history))
        self._bound()

    def _bound(self) -> None:
        while self._entries > self._max_entries:
            fullest = max((s for s in self._slots if s is not None), key=lambda s: len(s.history))
            if not fullest.history:
                return
            self._forget_oldest(fullest, 0.0, max(64, self._entries - self._max_entries))

    def _forget_oldest(self, slot: Slot, down_to_tokens: float, most_keys: int) -> None:
        """Until no more than `down_to_tokens` are left, or `most_keys` keys are forgotten."""
        history, guessed, others, tokens = slot.history, self._guessed, ~slot.mask, slot.tokens
        before = len(history)
        left = max(0, before - most_keys)
        while len(history) > left and (tokens > down_to_tokens or not down_to_tokens):
            key, each = history.popitem(last=False)
            tokens -= each
            holders = guessed[key] & others
            if holders:
                guessed[key] = holders
            else:
                del guessed[key]
        self._entries -= before - len(history)
        slot.tokens = tokens if history else 0.0  # rounding must not add up

    def _drop(self, holders: dict[int, int], key: int, slot: Slot) -> None:
        self._entries -= 1
        left = holders[key] & ~slot.mask
        if left:
            holders[key] = left
        else:
            del holders[key]


def _depths(keys: Sequence[int], holders: dict[int, int]) -> list[tuple[int, int]]:
    """(bits of those that hold so many leading keys, how many) for each number of keys that is held."""
    get = holders.get
    at_low = get(keys[0], 0)
    if not at_low:
        return []
    high = len(keys) - 1
    at_high = get(keys[high], 0) & at_low
    depths = [(at_high, high + 1)] if at_high else []
    spans = [(0, high, at_low, at_high)] if at_low != at_high else []
    while spans:
        low, high, at_low, at_high = spans.pop()
        while high - low > 1:  # some that hold the key at `low` do not hold that at `high`
            middle = (low + high) >> 1
            at_middle = get(keys[middle], 0) & at_low | at_high
            if at_middle == at_low:
                low = middle
                continue
            if at_middle != at_high:
                spans.append((middle, high, at_middle, at_high))
            high, at_high = middle, at_middle
        depths.append((at_low & ~at_high, low + 1))
    return depths


def _among(slots: list[Slot | None], mask: int) -> list[Slot]:
    """Those whose bits `mask` has."""
    if not mask & (mask - 1):
        one = slots[mask.bit_length() - 1]
        return [one] if one is not None else []
    bits = bin(mask)[:1:-1]
    return [slot for slot, bit in zip(slots, bits, strict=False) if bit == "1" and slot is not None]
