"""What the access log says of how prompts begin."""

from __future__ import annotations

from gateway.telemetry.prefix_marks import LADDER, marks
from router.prefix import Prefix


def test_marks_are_equal_as_far_as_prompts_are() -> None:
    one = marks(Prefix(range(100), 16.0), b"salt")
    other = marks(Prefix([*range(50), *range(900, 950)], 16.0), b"salt")
    shared = [mark for mark in one if mark in other]
    assert shared == one[: len(shared)]
    assert [int(mark.partition(":")[0]) for mark in shared] == [64, 80, 96, 128, 160, 192, 240, 304, 384, 480, 592, 752]


def test_without_the_secret_nothing_can_be_compared() -> None:
    prefix = Prefix(range(100), 16.0)
    assert not {*marks(prefix, b"one")} & {*marks(prefix, b"other")}
    assert marks(prefix, b"") == marks(prefix, b"")


def test_a_long_prompt_has_few_marks_and_a_short_one_none() -> None:
    assert len(marks(Prefix(range(100_000), 16.0), b"")) == len(LADDER) < 50
    assert marks(Prefix(range(3), 16.0), b"") == []
    assert [mark.partition(":")[0] for mark in marks(Prefix([1], 60.5), b"")] == ["60"]
