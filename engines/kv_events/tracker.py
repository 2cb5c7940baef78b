"""From what an engine tells of its blocks to the keys that this gateway knows prompts by.

The engine's hashes are opaque: they depend on its version, its settings and sometimes its process. The gateway's own
key of a block is the hash of its token ids, seeded with the key of the block before it, so that a key too stands for
everything up to the end of its block:

    key = xxh3_64(token ids as little-endian uint32, seed = the key before)
    seed of a prompt's first block = xxh3_64(name of the adapter, NUL, cache_salt)
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import msgspec
from xxhash import xxh3_64_intdigest

from engines.kv_events.codec import BlockRemoved, BlockStored, Event, Hash

MAX_BLOCKS = 1 << 20
"""Blocks that one tracker remembers. An H100 with 16 tokens a block has under a tenth of that."""
STEP = 128
"""Blocks handled before the caller may do something else; about 0.2 ms."""
_DEVICE = (None, "GPU")
_HOST = "CPU"
_WHOLE_PROMPTS = (None, "full_attention", "mla_attention", "sink_full_attention", "unknown")
"""Kinds of layers that keep every block of a prompt. Others keep a part of them, and say nothing of whole prefixes."""


class Sink(Protocol):
    """Takes what is known of one replica's cache, in the gateway's keys."""

    def stored(self, keys: Sequence[int]) -> None:
        """The replica holds these; a prompt's earlier blocks come before its later ones."""
        ...

    def removed(self, keys: Sequence[int]) -> None:
        """It holds them no longer. Some may never have been told of."""
        ...

    def cleared(self) -> None:
        """It holds nothing."""
        ...

    def certain(self, exact: bool) -> None:
        """exact: what was told is all that it holds. Not exact: what was told so far may be out of date, and what is
        told from now on is true, but not all."""
        ...


class Tracker:
    """The cache of one engine, or of one data-parallel rank of it. Does no I/O.

    suspended:    see `suspend`.
    block_tokens: length of the engine's blocks in tokens; 0: it has told of none.
    orphans:      blocks that continue one that is not known: they cannot be named.
    unnamed:      blocks told without their tokens, or of another length.
    forgotten:    blocks beyond `max_blocks`.
    """

    __slots__ = (
        "_complete",
        "_copies",
        "_doubtful",
        "_groups",
        "_keys",
        "_max_blocks",
        "_partial",
        "_sink",
        "_told_exact",
        "block_tokens",
        "forgotten",
        "orphans",
        "suspended",
        "unnamed",
    )

    def __init__(self, sink: Sink, max_blocks: int = MAX_BLOCKS) -> None:
        self._sink = sink
        self._max_blocks = max_blocks
        self._keys: dict[Hash, int] = {}
        self._copies: dict[Hash, int] = {}
        """Copies beyond the first, where there are any: two requests may compute the same at once."""
        self._doubtful: dict[Hash, int] = {}
        """Told of before something was missed: good for naming what continues them, and perhaps gone."""
        self._groups: dict[int | None, bool] = {}
        self._complete = self._partial = self._told_exact = False
        self.suspended = False
        self.block_tokens = 0
        self.orphans = self.unnamed = self.forgotten = 0

    def __repr__(self) -> str:
        state = "exact" if self.exact else "suspended" if self.suspended else "incomplete"
        counts = (("doubtful", len(self._doubtful)), ("orphans", self.orphans), ("unnamed", self.unnamed))
        more = "".join(f" {word}={count}" for word, count in counts if count)
        return f"<Tracker {state} blocks={len(self._keys)}{more}>"

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def exact(self) -> bool:
        """Whether the sink knows all that the engine holds."""
        return self._complete and not self._partial and not self.suspended

    def begin(self) -> None:
        """The engine's cache is empty, and nothing that it tells from now on has been missed."""
        self._empty()
        self._complete, self.suspended = True, False
        self._tell()

    def restarted(self) -> None:
        """The engine began anew, and what it told since then is not known."""
        self._empty()
        self._complete = self.suspended = False
        self._tell()

    def missed(self) -> None:
        """Something that the engine told is lost: until its cache is known to be empty, nothing is complete."""
        self._doubtful.update(self._keys)
        self._keys, self._copies = {}, {}
        self._complete = False
        self._tell(again=True)

    def suspend(self) -> None:
        """Nobody can tell whether something is missed. Idempotent."""
        self.suspended = True
        self._tell()

    def resume(self) -> Iterator[int]:
        """Nothing was missed after all: the sink is told everything again. In steps, as `apply`."""
        self.suspended = False
        if self.exact:
            self._sink.cleared()
            keys = iter(list(self._keys.values()))
            while some := list(islice(keys, STEP)):
                self._sink.stored(some)
                yield len(some)
        self._tell()

    def apply(self, events: Sequence[Event]) -> Iterator[int]:
        """Take what the engine tells, in steps: gives the number of blocks handled in each. Between steps the caller
        may do something else, but no other call to this tracker may come before the last."""
        gone: list[int] = []  # engines evict block by block, an event for each
        for event in events:
            if isinstance(event, BlockRemoved):
                for name in self._counted(event):
                    key = self._remove(name)
                    if key is not None:
                        gone.append(key)
                    if len(gone) >= STEP:
                        yield from self._flush(gone)
                continue
            yield from self._flush(gone)
            if isinstance(event, BlockStored):
                yield from self._stored(event)
            else:
                self.begin()
        yield from self._flush(gone)
        self._tell()

    # Blocks that come

    def _stored(self, event: BlockStored) -> Iterator[int]:
        if not self._counts(event):
            return
        if event.block_size > 0 and event.medium in _DEVICE and not self._keys and not self._doubtful:
            self.block_tokens = event.block_size
        blocks = _Blocks(event, self.block_tokens)
        hashes = event.block_hashes
        parent = event.parent_block_hash
        seed = blocks.root() if parent is None else self._key(parent)
        for start in range(0, len(hashes), STEP):
            fresh: list[int] = []
            end = min(start + STEP, len(hashes))
            for index in range(start, end):
                seed = self._store(hashes[index], index, seed, blocks, fresh)
            if fresh:
                self._bound()
                self._sink.stored(fresh)
            yield end - start

    def _store(self, name: Hash, index: int, seed: int | None, blocks: _Blocks, fresh: list[int]) -> int | None:
        """One more copy of a block. Returns its key; None: it cannot be told."""
        key = self._keys.get(name)
        if key is not None:
            self._copies[name] = self._copies.get(name, 0) + 1
            return key
        key = self._doubtful.pop(name, None)
        if key is None:
            if not blocks.named:
                self.unnamed += 1
                self._complete = self._complete and blocks.may_be_unnamed
                return None
            if seed is None:
                self.orphans += 1
                self._complete = False
                return None
            key = blocks.key(index, seed)
        self._keys[name] = key
        fresh.append(key)
        return key

    def _counts(self, event: BlockStored) -> bool:
        """Whether the event says what is held of whole prompts, in memory that the engine may use at once."""
        if event.medium not in _DEVICE and event.medium != _HOST:
            return False
        group = event.group_idx
        counts = self._groups.get(group)
        if counts is None:
            counts = self._groups[group] = event.kv_cache_spec_kind in _WHOLE_PROMPTS
            self._partial = self._partial or not counts
        return counts

    def _bound(self) -> None:
        """Forget the oldest, a sixteenth of all at once: single ones would each cost a walk over those gone before."""
        if len(self._keys) + len(self._doubtful) <= self._max_blocks:
            return
        some = max(1, self._max_blocks // 16)
        if self._doubtful:
            for name in list(islice(self._doubtful, some)):
                del self._doubtful[name]
            return
        names = list(islice(self._keys, some))
        self._sink.removed([self._keys.pop(name) for name in names])
        for name in names:
            self._copies.pop(name, None)
        self.forgotten += some
        self._complete = False

    # Blocks that go

    def _counted(self, event: BlockRemoved) -> Sequence[Hash]:
        """The blocks of the event, if they are of a group and a memory that count."""
        counts = self._groups.get(event.group_idx, False) and (event.medium in _DEVICE or event.medium == _HOST)
        return event.block_hashes if counts else ()

    def _flush(self, gone: list[int]) -> Sequence[int]:
        """Tell the sink what is gone. Gives steps."""
        if not gone:
            return ()
        told = len(gone)
        self._sink.removed(gone[:])
        gone.clear()
        return (told,)

    def _remove(self, name: Hash) -> int | None:
        """One copy of a block less. Returns its key if that was the last."""
        more = self._copies.get(name)
        if more is None:
            key = self._keys.pop(name, None)
            return self._doubtful.pop(name, None) if key is None else key
        if more > 1:
            self._copies[name] = more - 1
        else:
            del self._copies[name]
        return None

    def _key(self, name: Hash) -> int | None:
        key = self._keys.get(name)
        return self._doubtful.get(name) if key is None else key

    # What the sink is told

    def _empty(self) -> None:
        self._keys, self._copies, self._doubtful = {}, {}, {}
        self._groups, self._partial = {}, False
        self._sink.cleared()

    def _tell(self, *, again: bool = False) -> None:
        if again or self.exact != self._told_exact:
            self._told_exact = self.exact
            self._sink.certain(self._told_exact)


class _Blocks:
    """The blocks of one event, to be named.

    named:          whether their tokens are told.
    may_be_unnamed: copies in the host's memory are often told without; what they are a copy of is known.
    """

    __slots__ = ("_data", "_event", "_width", "may_be_unnamed", "named")

    def __init__(self, event: BlockStored, block_tokens: int) -> None:
        self._event = event
        size, tokens = event.block_size, event.token_ids
        self.named = size == block_tokens > 0 and len(tokens) == size * len(event.block_hashes)
        self.may_be_unnamed = event.medium == _HOST
        if self.may_be_unnamed and event.extra_keys is None:
            self.named = False  # a salt may be missing, and with it a prompt would match that is another's
        self._width = 4 * size
        self._data = memoryview(b"")
        if self.named:
            try:
                self._data = memoryview(token_bytes(tokens))
            except OverflowError:
                self.named = False

    def root(self) -> int:
        salt = "".join(one for one in self._extras(0) if isinstance(one, str))
        return root_seed(adapter_of(self._event), salt)

    def key(self, index: int, seed: int) -> int:
        data = self._data[index * self._width : (index + 1) * self._width]
        if self._event.extra_keys is None:
            return xxh3_64_intdigest(data, seed)
        beyond = self._extras(index)
        if index == 0 and self._event.parent_block_hash is None:
            beyond = [one for one in beyond if not isinstance(one, str)]  # the salt is in the seed
        if not beyond:
            return xxh3_64_intdigest(data, seed)
        # An image in place of its tokens: a key of its own kind, so that no prompt of the same length matches.
        return xxh3_64_intdigest(bytes(data) + b"\0" + msgspec.msgpack.encode(beyond), seed)

    def _extras(self, index: int) -> list[Any]:
        """What tells a block from others besides its tokens and its adapter."""
        extras = self._event.extra_keys
        if extras is None or index >= len(extras):
            return []
        these = extras[index] or []
        name = self._event.lora_name
        return these[1:] if name is not None and these[:1] == [name] else these


def adapter_of(event: BlockStored) -> str:
    """The name of the adapter; releases that do not tell it tell a number."""
    if event.lora_name is not None:
        return event.lora_name
    return "" if event.lora_id is None else f"\0{event.lora_id}"


def root_seed(adapter: str = "", salt: str = "") -> int:
    """The seed of a prompt's first block."""
    return xxh3_64_intdigest(f"{adapter}\0{salt}".encode())


def token_bytes(tokens: Sequence[int]) -> bytes:
    """Token ids as little-endian uint32.

    Raises:
        OverflowError: one of them is negative, or too large.
    """
    numbers = array("I", tokens)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
