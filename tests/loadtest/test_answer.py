"""What the client notes of an answer, whatever pieces it comes in."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.answer import AnswerReader
from loadtest.results import Failure, Outcome


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(**fields: object) -> bytes:
    return event(choices=[{"index": 0, "delta": fields}])


STREAM = (
    delta(role="assistant", content="")
    + b": keepalive\n\n"
    + delta(content="a")
    + delta(content="b")
    + delta()
    + event(choices=[], usage={"completion_tokens": 7})
    + b"data: [DONE]\n\n"
)


def read(body: bytes, cuts: list[int] | None = None, *, status: int = 200, streams: bool = True) -> Outcome:
    outcome = Outcome(0.0, 0.0, streams=streams, status=status)
    reader = AnswerReader(outcome)
    edges = [0, *sorted(cuts or []), len(body)]
    for number, (low, high) in enumerate(itertools.pairwise(edges), 1):
        reader.feed(body[low:high], float(number))
    reader.end(100.0)
    return outcome


@given(st.lists(st.integers(0, len(STREAM)), max_size=20), st.booleans())
def test_tokens_are_counted_wherever_a_stream_is_cut(cuts: list[int], crlf: bool) -> None:
    body = STREAM.replace(b"\n", b"\r\n") if crlf else STREAM
    outcome = read(body, cuts)
    assert (outcome.failure, outcome.chunks, outcome.tokens) == (Failure.NONE, 2, 7)
    assert len(outcome.gaps_s) == 1


def test_the_first_token_is_the_first_content_not_the_role() -> None:
    role = len(delta(role="assistant", content=""))
    outcome = read(STREAM, [role, role + len(b": keepalive\n\n")])
    assert outcome.first_s == 3.0
    assert outcome.gaps_s == [0.0]
    assert outcome.end_s == 100.0


@pytest.mark.parametrize(
    "fields", [{"reasoning_content": "x"}, {"reasoning": "x"}, {"tool_calls": [{"index": 0}]}, {"content": "x"}]
)
def test_reasoning_and_tool_calls_are_content(fields: dict[str, object]) -> None:
    assert read(delta(**fields) + b"data: [DONE]\n\n").chunks == 1


def test_text_of_completions_is_content() -> None:
    assert read(event(choices=[{"index": 0, "text": "x"}]) + b"data: [DONE]\n\n").chunks == 1


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (delta(content="a"), Failure.NO_DONE),
        (delta(content="a") + event(error={"message": "x"}), Failure.ERROR_EVENT),
        (b"data: {nonsense\n\ndata: [DONE]\n\n", Failure.MALFORMED),
    ],
)
def test_a_stream_that_goes_wrong_is_a_failure(body: bytes, failure: Failure) -> None:
    assert read(body).failure is failure


@pytest.mark.parametrize(
    ("body", "status", "failure"),
    [
        (b'{"usage": {"completion_tokens": 3}}', 200, Failure.NONE),
        (b"{}", 200, Failure.NONE),
        (b'{"error": {"message": "x"}}', 200, Failure.MALFORMED),
        (b"<html>", 200, Failure.MALFORMED),
        (b'{"error": {"message": "x"}}', 429, Failure.STATUS),
    ],
)
def test_a_whole_answer_is_judged_by_status_and_body(body: bytes, status: int, failure: Failure) -> None:
    assert read(body, [5], status=status, streams=False).failure is failure


def test_a_whole_answer_tells_its_tokens() -> None:
    assert read(b'{"usage": {"completion_tokens": 3}}', streams=False).tokens == 3
