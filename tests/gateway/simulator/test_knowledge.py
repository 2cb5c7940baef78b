"""What the simulated gateway knows of the engines' caches."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.simulator.blocks import BlockCache, Holders
from gateway.simulator.knowledge import Exact, Predicted
from gateway.simulator.trace import Request

prompts = st.lists(st.lists(st.integers(0, 5), max_size=6, unique=True), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(prompts)
def test_exact_is_what_each_cache_would_match(all_keys: list[list[int]]) -> None:
    holders: Holders = {}
    caches = [BlockCache(6, holders, engine) for engine in range(3)]
    exact = Exact(holders, 3, block_tokens=10)
    for number, keys in enumerate(all_keys):
        cache = caches[number % 3]
        if cache.pin(keys, 0) is not None and number % 2:
            cache.release(keys, 0)
        assert exact.cached(Request(0.0, 99, 1, keys)) == [10 * cache.match(keys) for cache in caches]


def test_what_is_under_way_counts_as_held_until_its_first_token() -> None:
    exact = Exact({}, 2, block_tokens=10)
    short, long = Request(0.0, 25, 1, [1, 2]), Request(0.0, 45, 1, [1, 2, 3, 4])
    exact.sent(short, 1)
    exact.sent(long, 1)
    exact.sent(short, 0)
    assert exact.cached(long) == [20, 40]
    exact.prefilled(long, 1)
    assert exact.cached(long) == [20, 20]
    exact.prefilled(short, 1)
    exact.prefilled(short, 0)
    assert exact.cached(long) == [0, 0]
    exact.answered(short, 0, 20, 20)


def test_the_index_predicts_from_what_was_sent_and_loses_trust_in_what_proves_wrong() -> None:
    predicted = Predicted(engines=2, kv_tokens=1000, block_tokens=10)
    request = Request(0.0, 45, 1, [1, 2, 3, 4])
    assert predicted.cached(request) == [0, 0]
    predicted.sent(request, 1)
    predicted.prefilled(request, 1)
    assert predicted.cached(request) == [0, 40]
    predicted.answered(request, 1, 40, 0)
    assert predicted.cached(request)[1] < 40
