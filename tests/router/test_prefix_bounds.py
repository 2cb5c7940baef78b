"""What the index of prefixes may take (R03)."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from router.prefix import Certainty, Prefix, PrefixIndex


def sent(index: PrefixIndex, replicas: int, prompts: int, keys: int) -> int:
    """Peak of the memory that the index takes while so many different prompts are sent."""
    rng = random.Random(1)
    slots = [index.open(10**12) for _ in range(replicas)]
    tracemalloc.start()
    for number in range(prompts):
        index.insert(slots[number % replicas], Prefix([rng.getrandbits(64) for _ in range(keys)]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(("replicas", "max_mib"), [(1, 2), (1, 5), (3, 3), (64, 5)])
def test_different_prompts_without_end_stay_within_the_bytes(replicas: int, max_mib: int) -> None:
    """R03, with fewer prompts."""
    index = PrefixIndex(max_mib << 20)
    assert sent(index, replicas, 8000, 5) <= max_mib << 20
    assert index.size_bytes > (max_mib << 20) * 0.95


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_a_million_different_prompts_stay_within_the_configured_bytes() -> None:
    """R03"""
    assert sent(PrefixIndex(), 16, 1_000_000, 5) <= 64 << 20


def test_the_replica_with_the_most_keys_forgets_and_what_engines_tell_stays() -> None:
    index = PrefixIndex(480 * 200)
    told, many, few = index.open(), index.open(), index.open()
    index.insert(many, Prefix(range(64)))
    index.insert(many, Prefix(range(100, 160)))
    index.insert(few, Prefix(range(200, 220)))
    index.certain(told, Certainty.EXACT)
    index.stored(told, range(300, 400))
    assert (len(told.exact), len(many.history), len(few.history)) == (100, 60, 20)
    assert index.match(Prefix(range(100, 160))) == [0, 960, 0]
    index.stored(told, range(1000, 1500))
    assert (len(told.exact), len(many.history), len(few.history)) == (600, 0, 0)
    index.insert(few, Prefix(range(200, 220)))
    assert index.match(Prefix(range(1000, 1500))) == [8000, 0, 0]
    assert index.match(Prefix(())) == [0, 0, 0]
    assert repr(index).startswith("<PrefixIndex entries=600 slots=[<Slot 0 exact exact=600")
