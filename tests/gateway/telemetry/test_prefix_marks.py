"""What the access log says of how prompts begin."""

from __future__ import annotations

from itertools import pairwise

from gateway.telemetry.prefix_marks import LADDER, marks


def test_marks_are_equal_as_far_as_prompts_are() -> None:
    one = marks(range(100), b"salt")
    other = marks([*range(50), *range(900, 950)], b"salt")
    shared = [mark for mark in one if mark in other]
    assert shared == one[: len(shared)]
    steps = [int(mark.partition(":")[0]) for mark in shared]
    assert steps[:6] == [1, 2, 3, 4, 5, 6]
    assert 40 <= steps[-1] <= 50
    assert all(after <= 1.25 * before + 1 for before, after in pairwise(steps))


def test_without_the_secret_nothing_can_be_compared() -> None:
    assert not {*marks(range(100), b"one")} & {*marks(range(100), b"other")}
    assert marks(range(100), b"") == marks(range(100), b"")


def test_a_long_prompt_has_few_marks_and_one_without_blocks_none() -> None:
    assert len(marks(range(100_000), b"")) == len(LADDER) < 50
    assert marks([], b"") == []
