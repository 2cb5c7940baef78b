"""What vLLM publishes of its KV cache: msgpack `[time, [events], data-parallel rank]`.

Events are maps since vLLM 0.12 or so, and arrays with their name in front before that (SGLang's still are); both are
read. Kinds of events, and fields, that are not known here are passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

Hash = int | bytes
"""An engine's own name for a block; it stands for everything up to the block's end. Opaque."""


class BlockStored(msgspec.Struct, tag=True, gc=False):
    """A run of blocks, each the continuation of the one before it, is in the cache.

    parent_block_hash: what the first one continues; None: it begins a prompt.
    token_ids:         of all the blocks, one after the other; empty where the engine does not know them any more.
    medium:            `GPU` is the memory that the model computes in, also where that is a CPU's.
    extra_keys:        for each block what else tells it from others: the adapter's name, (id, offset) pairs of images
                       and sound, `cache_salt` in a prompt's first block, digests of prompt embeddings.
    group_idx:         layers of one kind that share blocks; a model with several kinds has several groups.
    """

    block_hashes: list[Hash]
    parent_block_hash: Hash | None = None
    token_ids: list[int] = []
    block_size: int = 0
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class BlockRemoved(msgspec.Struct, tag=True, gc=False):
    """One copy of each of these blocks is gone."""

    block_hashes: list[Hash]
    medium: str | None = None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, tag=True, gc=False):
    """The cache is empty."""


Event = BlockStored | BlockRemoved | AllBlocksCleared


class Batch(msgspec.Struct):
    """What one message says. `ts_s`: by the engine's wall clock."""

    ts_s: float
    events: list[Event]
    rank: int | None = None


class Malformed(ValueError):
    """A message of a known kind that cannot be read."""


class _Stored(BlockStored, tag="BlockStored", array_like=True):
    pass


class _Removed(BlockRemoved, tag="BlockRemoved", array_like=True):
    pass


class _Cleared(AllBlocksCleared, tag="AllBlocksCleared", array_like=True):
    pass


class _Wire(msgspec.Struct, array_like=True):
    ts_s: float
    events: list[msgspec.Raw]
    rank: int | None = None


class _Named(msgspec.Struct):
    type: str = ""


class _NamedArray(msgspec.Struct, array_like=True):
    type: str = ""


_KNOWN = {"BlockStored", "BlockRemoved", "AllBlocksCleared"}
_decode_wire = msgspec.msgpack.Decoder(_Wire).decode
_decode_map: Callable[[msgspec.Raw], Event] = msgspec.msgpack.Decoder(
    BlockStored | BlockRemoved | AllBlocksCleared
).decode
_decode_array: Callable[[msgspec.Raw], Event] = msgspec.msgpack.Decoder(_Stored | _Removed | _Cleared).decode
_name_of_map = msgspec.msgpack.Decoder(_Named).decode
_name_of_array = msgspec.msgpack.Decoder(_NamedArray).decode


def decode(payload: bytes) -> Batch:
    """What a message says.

    Raises:
        Malformed: it is no such message, or an event of a known kind lacks what it must have.
    """
    try:
        wire = _decode_wire(payload)
        events = [event for event in map(_event, wire.events) if event is not None]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"KV event message of {len(payload)} bytes: {error}") from error
    return Batch(wire.ts_s, events, wire.rank)


def _event(raw: msgspec.Raw) -> Event | None:
    first = memoryview(raw)[0]
    is_array = first & 0xF0 == 0x90 or first in (0xDC, 0xDD)
    try:
        return _decode_array(raw) if is_array else _decode_map(raw)
    except msgspec.ValidationError:
        name = (_name_of_array(raw) if is_array else _name_of_map(raw)).type
        if name in _KNOWN:
            raise
        return None
