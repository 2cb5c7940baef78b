"""A heap whose items move and leave, against a sorted list."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from router.lazy_heap import SLACK, LazyHeap

ITEMS = st.integers(0, 20)


class Heap(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.heap: LazyHeap[int, float] = LazyHeap()
        self.model: dict[int, float] = {}
        """In the order in which they were put in."""

    @rule(item=ITEMS, key=st.sampled_from([0.0, 1.0, 2.5, float("inf")]))
    def put(self, item: int, key: float) -> None:
        self.heap.put(item, key)
        self.model.pop(item, None)
        self.model[item] = key
        assert self.heap.last_put() == item

    @rule(item=ITEMS)
    def remove(self, item: int) -> None:
        if item in self.model:
            self.heap.remove(item)
            del self.model[item]
        else:
            with pytest.raises(KeyError):
                self.heap.remove(item)

    @invariant()
    def it_is_sorted_and_no_larger_than_it_must(self) -> None:
        order = sorted(self.model, key=lambda item: self.model[item])
        first = self.heap.first()
        assert first == ((self.model[order[0]], order[0]) if order else None)
        assert list(self.heap.in_order()) == order
        assert list(self.heap) == list(self.model)
        assert len(self.heap) == len(self.model)
        assert len(self.heap._rows) <= 2 * len(self.model) + SLACK


TestHeap = Heap.TestCase


def test_what_moves_for_ever_takes_no_more_room() -> None:
    heap: LazyHeap[str, float] = LazyHeap()
    for step in range(10_000):
        heap.put("a", float(step))
    assert len(heap._rows) <= 2 + SLACK
    assert heap.first() == (9999.0, "a")
