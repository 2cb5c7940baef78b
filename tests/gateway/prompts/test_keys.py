from __future__ import annotations

import struct

import xxhash
from hypothesis import given
from hypothesis import strategies as st

from engines.kv_events.tracker import root_seed
from gateway.prompts.body import id_bytes
from gateway.prompts.keys import RUN_BLOCKS, KeyMemo, chain, first_seed


def test_each_key_is_the_hash_of_its_block_seeded_with_the_key_before() -> None:
    first = xxhash.xxh3_64_intdigest(struct.pack("<4I", 1, 2, 3, 4), seed=7)
    second = xxhash.xxh3_64_intdigest(struct.pack("<4I", 5, 6, 7, 8), seed=first)
    assert chain(id_bytes([1, 2, 3, 4, 5, 6, 7, 8, 9]), 16, 7) == [first, second]


def test_a_rest_that_fills_no_block_has_no_key() -> None:
    assert chain(b"x" * 255, 256, 0) == []
    assert chain(b"", 256, 0) == []


def test_the_first_seed_is_of_adapter_and_salt() -> None:
    assert first_seed("sql", b"pepper") == xxhash.xxh3_64_intdigest(b"sql\0pepper")
    assert len({first_seed("a", b"b"), first_seed("ab", b""), first_seed("", b"ab"), first_seed("", b"")}) == 4


def test_what_kv_events_tell_of_is_seeded_alike() -> None:
    assert first_seed("sql", b"pepper") == root_seed("sql", "pepper")
    assert first_seed("", b"") == root_seed()


def test_prompts_of_equal_length_have_keys_of_their_own() -> None:
    assert set(chain(id_bytes([1] * 64), 64, 0)).isdisjoint(chain(id_bytes([2] * 64), 64, 0))


@given(st.binary(max_size=200), st.binary(max_size=200), st.integers(1, 32))
def test_keys_are_equal_up_to_the_first_block_that_differs(one: bytes, other: bytes, block_bytes: int) -> None:
    keys, others = chain(one, block_bytes, 3), chain(other, block_bytes, 3)
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    shared = same // block_bytes
    assert keys[:shared] == others[:shared]
    assert set(keys[shared:]).isdisjoint(others[shared:])


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(0, 40), st.integers(1, 3))
def test_a_memo_changes_no_key(pieces: list[int], rest: int, block_bytes: int) -> None:
    memo = KeyMemo(100_000)
    data = b"".join(bytes([piece]) * (RUN_BLOCKS * block_bytes) for piece in pieces) + b"r" * rest
    for end in (len(data) // 2, len(data), len(data)):
        assert list(memo.chain(data[:end], block_bytes, 9)) == chain(data[:end], block_bytes, 9)


def test_a_memo_is_bounded() -> None:
    memo = KeyMemo(10_000)
    for at in range(100):
        memo.chain(bytes([at]) * 1024, 16, 0)
    assert repr(memo) == "<KeyMemo runs=3/3>"


def test_token_ids_are_little_endian_words() -> None:
    assert id_bytes([1, 2**32 - 1]) == b"\x01\0\0\0\xff\xff\xff\xff"
