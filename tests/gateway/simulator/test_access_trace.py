"""The access log as a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.simulator.access_trace import LOG_BLOCK_TOKENS, Log, open_log
from gateway.simulator.trace import BadTrace, Caller
from gateway.telemetry.access_log import Line
from gateway.telemetry.prefix_marks import GROWTH, marks
from tests.gateway.simulator import log_line, write_lines

B = LOG_BLOCK_TOKENS


def read(path: Path, *lines: str) -> Log:
    return open_log(write_lines(path / "access.jsonl", lines))


def test_a_request_came_when_its_line_was_written_less_what_it_took(tmp_path: Path) -> None:
    log = read(tmp_path, log_line(100.0, 9.0, tokens=(30, 4, 0)), log_line(101.0, 0.5), log_line(90.5, 0.25))
    assert [r.arrival_s for r in log.trace.requests] == [0.0, 0.75, 10.25]
    assert [one.prompt_tokens for one in log.measured] == [100, 30, 100]
    assert log.trace.requests[1].caller == Caller("team", "key", "llama")


def test_what_no_engine_answered_is_left_out_and_counted(tmp_path: Path) -> None:
    refused = log_line(1.0, 0.0, tokens=(0, 0, 0), status=503)
    cached = log_line(2.0, 0.0, cache="hit")
    nowhere = log_line(2.0, 0.0, caller=Caller())
    log = read(tmp_path, refused, cached, "", log_line(3.0, 1.0), nowhere)
    assert (len(log.trace.requests), log.trace.skipped) == (1, 3)


def test_a_prompt_that_found_tokens_cached_continues_the_prompt_that_left_them(tmp_path: Path) -> None:
    log = read(
        tmp_path,
        log_line(1.0, 0.5, tokens=(4 * B + 1, 10, 0)),
        log_line(2.0, 0.5, tokens=(9 * B + 1, 10, 0)),
        log_line(3.0, 0.5, tokens=(6 * B + 1, 10, 4 * B)),
        log_line(4.0, 0.5, tokens=(6 * B + 1, 10, 4 * B), caller=Caller("other", "key", "llama")),
        log_line(5.0, 0.5, tokens=(20 * B + 1, 10, 15 * B)),
    )
    first, second, third, stranger, long = (list(r.keys) for r in log.trace.requests)
    assert (len(first), len(second), len(third), len(long)) == (4, 9, 6, 20)
    assert third[:4] == first  # the shortest that is long enough
    assert not {*third} & {*second}
    assert not {*stranger} & {*first}  # nobody of the same caller came before
    assert long[:9] == second  # none is long enough: the longest
    assert len({*long[9:]} & {*first, *second, *third}) == 0


def test_where_the_log_tells_which_prompts_begin_alike_nothing_is_guessed(tmp_path: Path) -> None:
    told = ["1:aa", "2:bb", "3:cc"]
    log = read(
        tmp_path,
        log_line(1.0, 0.5, tokens=(3 * B + 1, 1, 0), prefix=told, prefix_block_tokens=B),
        log_line(2.0, 0.5, tokens=(9 * B, 1, 0), prefix=[*told, "4:dd", "6:ee"], prefix_block_tokens=B + 3),
        log_line(3.0, 0.5, tokens=(3 * B + 9, 1, 0), prefix=["1:aa", "2:00", "3:cc"], prefix_block_tokens=B - 3),
        log_line(4.0, 0.5, tokens=(3 * B, 1, 2 * B), prefix=["1:00"], prefix_block_tokens=B),
    )
    first, second, third, other = (list(r.keys) for r in log.trace.requests)
    assert (len(first), len(second), len(third), len(other)) == (3, 8, 3, 2)
    assert second[:3] == first
    assert third[0] == first[0]
    assert third[1] not in first
    assert not {*other} & {*first, *second, *third}
    assert len({*second[3:], *third[1:2]}) == 6


def test_a_mark_without_a_number_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match=r"access.jsonl: `prefix`: invalid literal for int"):
        read(tmp_path, log_line(1.0, 0.5, prefix=["x"], prefix_block_tokens=16))


def test_marks_lead_back_to_what_prompts_share(tmp_path: Path) -> None:
    keys = [list(range(1, 200)), [*range(1, 101), *range(1000, 1100)], list(range(5000, 5200))]
    lines = [
        log_line(
            float(i), 0.1, tokens=(16 * len(some) + 1, 1, 0), prefix=marks(some, b"salt"), prefix_block_tokens=16.0
        )
        for i, some in enumerate(keys)
    ]
    first, second, stranger = (list(r.keys) for r in read(tmp_path, *lines).trace.requests)
    shared = sum(one == other for one, other in zip(first, second, strict=False))
    assert 100 * 16 / GROWTH / B - 1 <= shared <= 100 * 16 / B
    assert first[:shared] == second[:shared]
    assert not {*stranger} & {*first}


def test_the_whole_prompt_is_never_cached(tmp_path: Path) -> None:
    log = read(tmp_path, log_line(1.0, 0.5, tokens=(2 * B, 1, 0)), log_line(2.0, 0.5, tokens=(2 * B, 1, 5 * B)))
    assert [len(r.keys) for r in log.trace.requests] == [1, 1]
    assert log.measured[1].cached_tokens == 2 * B


def test_tpot_is_known_of_streams_with_more_than_one_token(tmp_path: Path) -> None:
    streamed = log_line(10.0, 1.1, tokens=(5, 11, 0), ttft_s=0.1)
    log = read(tmp_path, streamed, log_line(11.0, 1.0, ttft_s=None), log_line(12.0, 1.0, tokens=(5, 1, 0)))
    assert [one.tpot_s for one in log.measured] == [pytest.approx(0.1), None, None]


def test_what_is_read_of_a_line_is_written_to_it() -> None:
    read_fields = {"time", "duration_ms", "deployment", "tenant", "key", "sensitivity", "pool", "replica", "ttft_ms"}
    assert read_fields | {"tokens_in", "tokens_out", "tokens_cached", "cache", "prefix"} <= set(Line.__struct_fields__)


def test_a_log_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="none: No such file"):
        open_log(tmp_path / "none")
