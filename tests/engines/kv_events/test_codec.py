"""Messages as vLLM of several releases writes them."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.kv_events.codec import AllBlocksCleared, BlockRemoved, BlockStored, Malformed, decode
from tests.engines.kv_events.publisher import CLEARED, as_array, removed, stored

pack = msgspec.msgpack.encode


def test_events_that_are_maps_are_read() -> None:
    event = stored(range(8), lora_name="sql", extra_keys=[["sql", "salt"], ["sql"]], session_id="s")
    batch = decode(pack([12.5, [event, removed(1, 2), CLEARED], 3]))
    assert (batch.ts_s, batch.rank) == (12.5, 3)
    first, second, third = batch.events
    assert isinstance(first, BlockStored)
    assert first.token_ids == list(range(8))
    assert (first.block_size, first.medium, first.lora_name, first.group_idx) == (4, "GPU", "sql", 0)
    assert first.extra_keys == [["sql", "salt"], ["sql"]]
    assert isinstance(second, BlockRemoved)
    assert second.block_hashes == [1, 2]
    assert isinstance(third, AllBlocksCleared)


def test_events_that_are_arrays_are_read_however_many_fields_they_have() -> None:
    event = stored(range(8))
    older = as_array(event)
    newer = [*older, "GPU", "sql", None, 0, "full_attention", None, "LOCAL", "a field of next year"]
    batch = decode(pack([1, [older, newer, as_array(removed(7)), ["BlockRemoved", [8], "GPU"], ["AllBlocksCleared"]]]))
    first, second, third, fourth, last = batch.events
    assert isinstance(first, BlockStored)
    assert isinstance(second, BlockStored)
    assert (first.block_hashes, first.medium) == (event["block_hashes"], None)
    assert (second.medium, second.lora_name, second.kv_cache_spec_kind) == ("GPU", "sql", "full_attention")
    assert isinstance(third, BlockRemoved)
    assert isinstance(fourth, BlockRemoved)
    assert (third.medium, fourth.medium) == (None, "GPU")
    assert isinstance(last, AllBlocksCleared)
    assert batch.rank is None


def test_hashes_may_be_bytes() -> None:
    digest = bytes(range(32))
    (event,) = decode(pack([1.0, [removed() | {"block_hashes": [digest, 5]}]])).events
    assert isinstance(event, BlockRemoved)
    assert event.block_hashes == [digest, 5]


@pytest.mark.parametrize(
    "event", [{"type": "BlockMoved", "to": [1]}, {"kind": 1}, ["BlockMoved", [1], 2], ["BlockMoved"] * 20, {}]
)
def test_an_event_of_an_unknown_kind_is_passed_over(event: object) -> None:
    assert [type(one) for one in decode(pack([1.0, [event, CLEARED]])).events] == [AllBlocksCleared]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        pack({"ts": 1.0}),
        pack([1.0]),
        pack([1.0, [{"type": "BlockStored"}]]),
        pack([1.0, [{"type": "BlockRemoved", "block_hashes": ["text"]}]]),
        pack([1.0, [["BlockRemoved"]]]),
        pack([1.0, [5]]),
        pack([1.0, [removed(1)]])[:-1],
    ],
)
def test_what_cannot_be_read_is_malformed(payload: bytes) -> None:
    with pytest.raises(Malformed, match="KV event message of"):
        decode(payload)


@given(st.binary(max_size=200))
def test_garbage_is_a_batch_or_malformed_and_nothing_else(payload: bytes) -> None:
    with contextlib.suppress(Malformed):
        decode(payload)
