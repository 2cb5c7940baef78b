"""Data-parallel ranks behind one address."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engines.kv_events.ranks import Ranks
from tests.engines.kv_events.publisher import Heard

KEYS = st.lists(st.integers(0, 5), max_size=4)


def test_a_key_is_held_as_long_as_any_rank_holds_it() -> None:
    heard = Heard()
    ranks = Ranks(heard)
    one, two = ranks.rank(), ranks.rank()
    one.stored([1, 2])
    two.stored([2, 3])
    one.removed([1, 2])
    assert heard.keys == {2, 3}
    two.cleared()
    assert not heard.keys


def test_nobody_knows_which_rank_gets_a_request() -> None:
    heard = Heard()
    rank = Ranks(heard).rank()
    rank.certain(exact=True)
    assert not heard.calls
    rank.certain(exact=False)
    assert heard.calls == ["not exact"]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["stored", "removed", "cleared"]), KEYS), max_size=40))
def test_the_union_is_that_of_the_ranks(calls: list[tuple[int, str, list[int]]]) -> None:
    heard = Heard()
    ranks = Ranks(heard)
    sinks = [ranks.rank() for _ in range(3)]
    models: list[set[int]] = [set(), set(), set()]
    for rank, call, keys in calls:
        if call == "stored":
            sinks[rank].stored(keys)
            models[rank].update(keys)
        elif call == "removed":
            sinks[rank].removed(keys)
            models[rank].difference_update(keys)
        else:
            sinks[rank].cleared()
            models[rank].clear()
        assert heard.keys == set.union(*models)
