"""Bytes of a process become lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engines.child import MAX_LINE_BYTES, LineSplitter


def split(*pieces: bytes) -> list[str]:
    splitter = LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return lines + splitter.end()


def test_lines_come_whole_wherever_the_bytes_were_cut() -> None:
    assert split(b"on", b"e\r\ntw", b"o\n\nthree") == ["one", "two", "", "three"]


def test_of_a_progress_bar_only_the_last_state_is_kept() -> None:
    assert split(b"10%\r20%\r30%\n") == ["30%"]


def test_bytes_that_are_no_text_are_shown_and_not_fatal() -> None:
    assert split(b"ol\xff\n") == ["ol\ufffd"]


def test_a_line_without_end_is_cut() -> None:
    assert [len(line) for line in split(b"x" * (2 * MAX_LINE_BYTES + 1))] == [MAX_LINE_BYTES, MAX_LINE_BYTES, 1]


@given(st.lists(st.text(alphabet="ab c", max_size=5), max_size=5), st.integers(1, 7))
def test_no_cut_changes_the_lines(lines: list[str], step: int) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    assert split(*(data[i : i + step] for i in range(0, len(data), step))) == lines
