"""The block cache of a simulated engine."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.simulator.blocks import BlockCache, Holders


def test_a_prefix_stays_when_nobody_uses_it() -> None:
    cache = BlockCache(10, {}, 0)
    assert cache.pin([1, 2, 3], private=1) == 0
    cache.release([1, 2, 3], private=1)
    assert (cache.pinned, cache.match([1, 2, 9]), cache.match([9])) == (0, 2, 0)
    assert cache.pin([1, 2, 4], private=0) == 2


def test_the_longest_unused_goes_first_and_of_a_prompt_its_end() -> None:
    cache = BlockCache(4, {}, 0)
    for keys in ([1, 2], [3, 4]):
        cache.pin(keys, 0)
        cache.release(keys, 0)
    cache.pin([], private=1)
    assert (cache.match([1, 2]), cache.match([3, 4])) == (1, 2)


def test_what_is_in_use_is_never_evicted_and_counts_once_for_all_who_use_it() -> None:
    cache = BlockCache(4, {}, 0)
    assert cache.pin([1, 2, 3], 0) == 0
    assert cache.pin([1, 2, 3], 1) == 3
    assert cache.pin([1, 2, 3], 1) is None
    assert repr(cache) == "<BlockCache pinned=4 idle=0 of 4>"
    cache.release([1, 2, 3], 1)
    assert cache.pin([1, 2, 3], 1) == 3


prompts = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 3), st.booleans()), max_size=40)


@settings(max_examples=100, deadline=None)
@given(prompts)
def test_pinned_blocks_fit_and_the_holders_are_who_holds(rows: list[tuple[int, int, int, bool]]) -> None:
    holders: Holders = {}
    caches = [BlockCache(8, holders, engine) for engine in range(2)]
    taken: list[tuple[int, list[int], int]] = []
    for family, length, private, ends in rows:
        engine, keys = family % 2, [10 * family + i for i in range(length)]
        if caches[engine].pin(keys, private) is not None:
            taken.append((engine, keys, private))
        if ends and taken:
            used_at, used_keys, used_private = taken.pop(0)
            caches[used_at].release(used_keys, used_private)
        for engine, cache in enumerate(caches):
            used = [(keys, private) for at, keys, private in taken if at == engine]
            distinct = {key for keys, _private in used for key in keys}
            assert cache.pinned == len(distinct) + sum(private for _keys, private in used) <= 8
            held = {key for key in range(50) if cache.match([key])}
            assert held == {key for key, mask in holders.items() if mask >> engine & 1}
            assert distinct <= held
            assert len(held) + sum(private for _keys, private in used) <= 8
    assert 0 not in holders.values()
