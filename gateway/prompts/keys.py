"""Keys of a prompt's blocks: one 64-bit number for each, which stands for the whole prefix up to its block.

Two prompts have equal keys exactly as far as they are equal from the start, block by block, for the same adapter and
cache salt: a KV cache may be looked up by them. The hash is XXH3 (64 bit), each block seeded with the key before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

TOKEN_BYTES = 4
"""A token id as it is hashed: uint32, little-endian."""
RUN_BLOCKS = 64
"""Blocks whose keys are remembered together."""
_RUN_COST_BYTES = RUN_BLOCKS * 40 + 200
"""What one remembered run takes: its integers, their tuple, and its place in the table."""


def first_seed(adapter: str, salt: bytes) -> int:
    """What the first block is seeded with: prompts of different adapters or cache salts share no key."""
    return xxh3_64_intdigest(adapter.encode() + b"\0" + salt)


def chain(data: bytes | bytearray | memoryview, block_bytes: int, seed: int) -> list[int]:
    """The key of each full block of `data`; a rest that fills no block has none.

    Args:
        data: token ids as uint32, little-endian, or the prompt's bytes.
        block_bytes: size of a block, > 0.
        seed: `first_seed`, or the key of the block before `data`.
    """
    view = memoryview(data)
    keys = []
    for start in range(0, len(view) - block_bytes + 1, block_bytes):
        seed = xxh3_64_intdigest(view[start : start + block_bytes], seed)
        keys.append(seed)
    return keys


class KeyMemo:
    """Chains keys, and remembers them in runs of `RUN_BLOCKS`: what was seen before costs one hash for each run.

    A run is looked up by the hash of its bytes, seeded with the key before it, so that a hit is as sure as the keys
    themselves. Not thread-safe.

    max_bytes: memory for the runs; the least recently used are dropped.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_runs = max_bytes // _RUN_COST_BYTES
        self._runs: OrderedDict[int, tuple[int, ...]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<KeyMemo runs={len(self._runs)}/{self._max_runs}>"

    def chain(self, data: bytes, block_bytes: int, seed: int) -> Sequence[int]:
        """As the function `chain`."""
        run_bytes = RUN_BLOCKS * block_bytes
        if len(data) < run_bytes:
            return chain(data, block_bytes, seed)
        runs = self._runs
        keys: list[int] = []
        view = memoryview(data)
        start = 0
        while start + run_bytes <= len(view):
            piece = view[start : start + run_bytes]
            name = xxh3_64_intdigest(piece, seed)
            run = runs.get(name)
            if run is None:
                run = runs[name] = tuple(chain(piece, block_bytes, seed))
            else:
                runs.move_to_end(name)
            keys += run
            seed = run[-1]
            start += run_bytes
        while len(runs) > self._max_runs:
            runs.popitem(last=False)
        keys += chain(view[start:], block_bytes, seed)
        return keys
