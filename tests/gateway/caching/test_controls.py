"""What a caller says of the cache, in whatever way it says it, and what its answer says (RFC 9111)."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.caching.controls import MAX_S, USUAL, Controls, Source, answer_lines, not_cached, read_controls
from gateway.errors import InvalidRequest
from gateway.http import Request


def asking(*cache_control: bytes, **others: bytes) -> Request:
    lines = [(b"cache-control", value) for value in cache_control]
    lines += [(name.replace("_", "-").encode(), value) for name, value in others.items()]
    return Request(b"POST", b"/", "/", dict(lines), lines, b"", "127.0.0.1")


def test_who_says_nothing_may_be_answered_from_the_cache_and_kept() -> None:
    assert read_controls(asking()) is USUAL
    assert read_controls(asking(b"")) == read_controls(asking(b"max-stale=5, no-transform, private")) == USUAL


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((b"no-cache",), Controls(reads=False)),
        ((b"No-Cache",), Controls(reads=False)),
        ((b'no-cache="x"',), Controls(reads=False)),
        ((b"no-store",), Controls(reads=False, stores=False)),
        ((b"private, NO-STORE",), Controls(reads=False, stores=False)),
        ((b"private", b"no-store", b"max-age=9"), Controls(reads=False, stores=False, max_age_s=9)),
        ((b"only-if-cached",), Controls(only_if_cached=True)),
        ((b"max-age=5",), Controls(max_age_s=5)),
        ((b"MAX-AGE=5",), Controls(max_age_s=5)),
        ((b'max-age="5"',), Controls(max_age_s=5)),
        ((b"max-age = 5 , min-fresh= 6",), Controls(max_age_s=5, min_fresh_s=6)),
        ((b"max-age=5, max-age=3", b"max-age=4"), Controls(max_age_s=3)),
        ((b"min-fresh=5, min-fresh=7",), Controls(min_fresh_s=7)),
        ((b"max-age=3000000000",), Controls(max_age_s=MAX_S)),
        ((b"max-age=" + b"9" * 5000,), Controls(max_age_s=MAX_S)),
        ((b"min-fresh=" + b"9" * 5000,), Controls(min_fresh_s=MAX_S)),
    ],
)
def test_a_directive_means_what_the_rfc_says_whatever_its_case_place_and_header(
    given: tuple[bytes, ...], expected: Controls
) -> None:
    assert read_controls(asking(*given)) == expected


@pytest.mark.parametrize("junk", [b"max-age", b"max-age=", b"max-age=x", b"max-age=-1", b"max-age=1.5", b'max-age="'])
def test_an_age_that_cannot_be_read_is_the_most_careful_one(junk: bytes) -> None:
    assert read_controls(asking(junk)).max_age_s == 0
    assert read_controls(asking(junk.replace(b"max-age", b"min-fresh"))).min_fresh_s == math.inf


@pytest.mark.parametrize(
    "junk",
    [
        b";;;, no-cache",
        b", ,no-cache,",
        b"a b c, no-cache",
        b'x="a\\"b", no-cache',
        b'x="a, no-cache',
        b"\xff,no-cache",
        b"private; no-cache; x",
    ],
)
def test_junk_hides_no_directive(junk: bytes) -> None:
    assert not read_controls(asking(junk)).reads


def test_what_is_quoted_is_no_directive() -> None:
    assert read_controls(asking(b'x="a, no-store"')) == USUAL


def test_pragma_counts_only_where_there_is_no_cache_control() -> None:
    assert not read_controls(asking(pragma=b"x, No-Cache")).reads
    assert read_controls(asking(pragma=b"x")) == USUAL
    assert read_controls(asking(b"max-age=5", pragma=b"no-cache")) == Controls(max_age_s=5)


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_no_header_does_harm(values: list[bytes]) -> None:
    controls = read_controls(asking(*values))
    assert controls.max_age_s >= 0
    assert controls.min_fresh_s >= 0


@pytest.mark.parametrize(
    ("controls", "age_s", "left_s", "serves"),
    [
        (USUAL, 1e9, 0.0, True),
        (Controls(reads=False), 0.0, 9.0, False),
        (Controls(max_age_s=5), 5.0, 9.0, True),
        (Controls(max_age_s=5), 5.1, 9.0, False),
        (Controls(max_age_s=0), 0.1, 9.0, False),
        (Controls(min_fresh_s=5), 0.0, 5.0, True),
        (Controls(min_fresh_s=5), 0.0, 4.9, False),
    ],
)
def test_an_answer_is_served_if_it_is_young_and_fresh_enough(
    controls: Controls, age_s: float, left_s: float, serves: bool
) -> None:
    assert controls.serves(age_s, left_s) is serves


def test_a_caller_says_for_how_long_its_answer_may_be_kept() -> None:
    assert read_controls(asking(x_headrace_cache_ttl=b"60")) == Controls(ttl_s=60)
    assert not read_controls(asking(x_headrace_cache_ttl=b"0")).stores


@pytest.mark.parametrize("value", [b"", b"-1", b"1.5", b"1h", b"9" * 30, b"\xff"])
def test_a_time_that_is_none_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidRequest, match="x-headrace-cache-ttl") as raised:
        read_controls(asking(x_headrace_cache_ttl=value))
    assert raised.value.code == "invalid_cache_ttl"


def test_a_call_that_wants_a_kept_answer_or_none_gets_a_504_that_is_not_retried() -> None:
    error = not_cached()
    assert (error.status, error.code) == (504, "not_cached")
    assert error.header_lines() == b"x-should-retry: false\r\n"


@pytest.mark.parametrize("source", ["miss", "bypass"])
def test_an_engines_answer_has_no_age(source: Source) -> None:
    assert answer_lines(source, age_s=5) == b"x-headrace-cache: %b\r\n" % source.encode()


def test_a_kept_answer_says_how_old_it_is_and_by_what_name_it_is_known() -> None:
    lines = answer_lines("hit", entry_id="ab", age_s=5.9)
    assert lines == b"x-headrace-cache: hit\r\nage: 5\r\nx-headrace-cache-id: ab\r\n"
    assert b"age: 0\r\n" in answer_lines("hit", age_s=-3)


def test_an_answer_to_another_wording_says_how_sure_it_was() -> None:
    lines = answer_lines("semantic", similarity=0.98765, score=0.999, bound=0.0)
    told = dict(line.split(b": ") for line in lines.splitlines())
    assert told == {
        b"x-headrace-cache": b"semantic",
        b"age": b"0",
        b"x-headrace-cache-similarity": b"0.9877",
        b"x-headrace-cache-score": b"0.9990",
        b"x-headrace-cache-bound": b"0.0000",
    }
