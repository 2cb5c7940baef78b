"""The index against comparing all with all."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import index as module
from cache.index import EXACT, FEW, Floats, Index, Place, as_bytes, as_floats
from tests.cache.entries import vector

DIMENSIONS = 16


def filled(count: int, dimensions: int = DIMENSIONS) -> Index:
    index = Index(dimensions)
    for number in range(count):
        assert index.add(number, as_bytes(vector(number, dimensions)))
    return index


def nearest(vectors: dict[int, Floats], asked: Floats, count: int) -> list[int]:
    cosines = {number: float(as_floats(as_bytes(each)) @ asked) for number, each in vectors.items()}
    return sorted(cosines, key=lambda number: (-cosines[number], number))[:count]


@pytest.mark.parametrize("count", [1, FEW, FEW + 1, 200])
def test_up_to_two_thousand_the_nearest_are_exact(count: int) -> None:
    index = filled(count)
    vectors = {number: vector(number, DIMENSIONS) for number in range(count)}
    for seed in range(1000, 1020):
        asked = vector(seed, DIMENSIONS)
        found = index.near(asked, 8)
        assert [number for number, _ in found] == nearest(vectors, asked, 8)
        assert [cosine for _, cosine in found] == sorted((cosine for _, cosine in found), reverse=True)


def test_from_two_thousand_on_a_graph_finds_them_with_the_same_cosines() -> None:
    index = filled(EXACT + 800)
    assert repr(index) == f"<Index {EXACT + 800} x {DIMENSIONS} graph>"
    vectors = {number: vector(number, DIMENSIONS) for number in range(EXACT + 800)}
    right = 0
    for seed in range(5000, 5050):
        asked = vector(seed, DIMENSIONS)
        found = dict(index.near(asked, 8))
        for number, cosine in found.items():
            assert cosine == pytest.approx(float(as_floats(as_bytes(vectors[number])) @ asked), abs=1e-5)
        right += len(found.keys() & set(nearest(vectors, asked, 8)))
    assert right >= 0.95 * 50 * 8


def test_what_is_asked_for_as_it_was_added_is_found_first_however_many_there_are() -> None:
    index = filled(EXACT + 800)
    missed = [number for number in range(0, len(index), 7) if index.near(vector(number, DIMENSIONS), 1)[0][0] != number]
    assert len(missed) <= 2


def test_vectors_move_to_the_graph_a_few_at_a_time() -> None:
    index = filled(EXACT + 2)
    moved = index._graph
    assert moved is not None and index._rows is not None
    assert len(index._rows) >= EXACT - 2 * module.MOVED, "no newcomer waits for all of them"
    found = index.near(vector(3, DIMENSIONS), 1)
    assert found[0][0] == 3


def test_what_was_removed_is_not_found_even_before_the_graph_forgets_it() -> None:
    index = filled(EXACT + 800)
    gone = set(range(0, EXACT + 800, 3))
    for number in gone:
        index.remove(number)
    for number in list(gone)[:50]:
        assert number not in dict(index.near(vector(number, DIMENSIONS), 8))
        assert len(index.near(vector(number, DIMENSIONS), 8)) == 8
    while index.tidy(100):
        pass
    assert all(index.near(vector(number, DIMENSIONS), 1)[0][0] == number for number in (1, 2, 4, 5))


def test_one_that_shrinks_is_exact_again_and_gives_its_memory_back() -> None:
    index = filled(EXACT + 800)
    large = index.size_bytes
    for number in range(EXACT + 800 - EXACT // 8):
        index.remove(number)
    assert repr(index) == f"<Index {EXACT // 8} x {DIMENSIONS} exact>"
    assert index.size_bytes < large / 3
    last = EXACT + 799
    assert index.near(vector(last, DIMENSIONS), 1)[0][0] == last


def test_a_vector_that_is_not_like_the_others_is_not_taken() -> None:
    index = Index(DIMENSIONS)
    assert not index.add(1, as_bytes(vector(1, DIMENSIONS + 1)))
    assert not index.add(1, b"\0" * (2 * DIMENSIONS))
    assert not index.add(1, np.full(DIMENSIONS, np.nan, "<f2").tobytes())
    assert len(index) == 0 and index.near(vector(1, DIMENSIONS), 8) == []
    index.add(1, as_bytes(vector(1, DIMENSIONS)))
    with pytest.raises(ValueError, match="number 1 is taken"):
        index.add(1, as_bytes(vector(1, DIMENSIONS)))
    index.remove(7)


@pytest.mark.parametrize("wrong", [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_a_vector_of_no_length_cannot_be_written_down(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        as_bytes(wrong)


def test_the_coarse_stage_says_how_near_anything_can_be() -> None:
    place = Place(DIMENSIONS)
    for number in range(5):
        place.add(number, as_bytes(vector(number, DIMENSIONS)), as_bytes(vector(number, 8)))
    assert place.nearest_first(vector(3, 8)) == pytest.approx(1.0, abs=1e-3)
    assert place.nearest_first(vector(77, 8)) < 0.99
    assert place.nearest_first(vector(3, 9)) == 1.0, "it cannot be compared, so nothing may be ruled out"
    place.remove(3)
    assert place.nearest_first(vector(3, 8)) < 0.99
    place.add(9, as_bytes(vector(9, DIMENSIONS)), b"")
    assert place.nearest_first(vector(77, 8)) == 1.0, "one of them has no coarse vector"
    assert not place.tidy(10)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "near"]), st.integers(0, 60)), max_size=120))
def test_any_sequence_of_adding_and_removing_finds_what_is_there(steps: list[tuple[str, int]]) -> None:
    small = pytest.MonkeyPatch()
    small.setattr(module, "EXACT", 24)
    small.setattr(module, "FEW", 6)
    try:
        index, there, fresh = Index(DIMENSIONS), dict[int, Floats](), 0
        for step, seed in steps:
            if step == "add":
                there[fresh] = vector(seed, DIMENSIONS)
                index.add(fresh, as_bytes(there[fresh]))
                fresh += 1
            elif step == "remove" and there:
                number = random.Random(seed).choice(sorted(there))
                del there[number]
                index.remove(number)
            asked = vector(seed, DIMENSIONS)
            found = [number for number, _ in index.near(asked, 4)]
            assert set(found) <= there.keys()
            assert len(found) == min(4, len(there))
            assert len(index) == len(there)
    finally:
        small.undo()
