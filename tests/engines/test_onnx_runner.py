"""What of a text may be shown while a stop string may be under way."""

from __future__ import annotations

import pytest

from engines.onnx.runner import _cut, _overlap


@pytest.mark.parametrize(
    ("text", "stops", "shown", "stopped"),
    [
        ("one two", (), "one two", False),
        ("one two", ("two",), "one ", True),
        ("one two", ("two", "one"), "", True),
        ("one tw", ("two",), "one tw", False),
    ],
)
def test_a_text_ends_before_the_first_stop_string(text: str, stops: tuple[str, ...], shown: str, stopped: bool) -> None:
    assert _cut(text, stops) == (shown, stopped)


@pytest.mark.parametrize(
    ("text", "stops", "held"),
    [
        ("one", (), 0),
        ("one t", ("two",), 1),
        ("one tw", ("two", "w"), 2),
        ("one\n", ("\n\nUser:", "\nUser"), 1),
        ("x", ("y",), 0),
    ],
)
def test_what_may_begin_a_stop_string_is_held_back(text: str, stops: tuple[str, ...], held: int) -> None:
    assert _overlap(text, stops) == held
