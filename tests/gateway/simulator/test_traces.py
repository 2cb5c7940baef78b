"""Reading traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.simulator.trace import BadTrace, Request, Trace
from gateway.simulator.traces import read_trace
from tests.gateway.simulator import log_line, trace_of, write_lines, write_mooncake

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"


def test_mooncake_rows_have_a_key_for_each_full_block_but_that_of_the_last_token(tmp_path: Path) -> None:
    rows = [Request(1.5, 1025, 3, [7, 8, 9]), Request(2.0, 1024, 3, [7, 8]), Request(4.0, 1, 0, [7])]
    trace = read_trace(write_mooncake(tmp_path / "t.jsonl", rows))
    assert [list(request.keys) for request in trace.requests] == [[7, 8], [7], []]
    assert [request.arrival_s for request in trace.requests] == [0.0, 0.5, 2.5]
    assert trace.requests[2].output_tokens == 1
    assert (trace.name, trace.block_tokens, trace.jitter_s) == ("t.jsonl", 512, 3.0)


def test_azure_rows_share_nothing(tmp_path: Path) -> None:
    lines = [AZURE, "2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:50.9951690,396,109", ""]
    trace = read_trace(write_lines(tmp_path / "t.csv", lines))
    assert [(r.prompt_tokens, r.output_tokens, list(r.keys)) for r in trace.requests] == [(374, 44, []), (396, 109, [])]
    assert trace.requests[1].arrival_s == pytest.approx(4.314579)
    assert (trace.block_tokens, trace.jitter_s) == (16, 0.0)


def test_an_access_log_is_a_trace(tmp_path: Path) -> None:
    trace = read_trace(write_lines(tmp_path / "access.jsonl", [log_line(100.0, 2.0), log_line(101.0, 0.5)]))
    assert [request.arrival_s for request in trace.requests] == [0.0, 2.5]


def test_a_limit_takes_the_first(tmp_path: Path) -> None:
    mooncake = write_mooncake(tmp_path / "t.jsonl", [Request(i, 100, 1) for i in range(5)])
    azure = write_lines(tmp_path / "t.csv", [AZURE, *["2023-11-16 18:15:46.6,3,4"] * 5])
    log = write_lines(tmp_path / "l.jsonl", [log_line(i, 0.1) for i in range(5)])
    assert [len(read_trace(path, limit=2).requests) for path in (mooncake, azure, log)] == [2, 2, 2]


def test_a_conversation_is_what_shares_a_block_that_few_share(tmp_path: Path) -> None:
    rows = [Request(i, 2000, 1, [0, 1 + i % 10, 100 + i]) for i in range(100)]
    sessions = [r.session for r in read_trace(write_mooncake(tmp_path / "t.jsonl", rows)).requests]
    assert sessions == [str(1 + i % 10) for i in range(100)]  # block 0 is the system prompt
    shared = read_trace(write_mooncake(tmp_path / "s.jsonl", [Request(i, 600, 1, [0]) for i in range(100)]))
    assert {request.session for request in shared.requests} == {""}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "t:1: neither a Mooncake trace"),
        ("{}\n", "t:1: neither a Mooncake trace"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": []}\n{"time', "t:2: Input data was"),
        ('{"timestamp": 0, "input_length": 5, "hash_ids": []}', "t:1: Object missing required field `output_length`"),
        ('{"timestamp": 0, "input_length": -5, "output_length": 5, "hash_ids": []}', "t:1: -5 tokens; a length cannot"),
        (f"{AZURE}\n2023-11-16 18:15:46,3\n", "t:2: '2023-11-16 18:15:46,3' is not TIMESTAMP,ContextTokens"),
        (f"{AZURE}\nyesterday,3,4\n", "t:2: 'yesterday,3,4' is not"),
        (f"{AZURE}\n", "t: no requests in it"),
        (
            log_line(1.0, 1.0) + '\n{"time": "now", "duration_ms": 1}\n',
            "t:2: not a line of the access log: Invalid iso",
        ),
        (log_line(1.0, 1.0) + '\n{"duration_ms": 1}\n', "t:2: not a line of the access log: Object missing required"),
        (log_line(1.0, 1.0, tokens=(0, 0, 0), status=429), "t: no requests in it; 1 lines have no tokens"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "t"
    path.write_text(text)
    with pytest.raises(BadTrace) as error:
        read_trace(path)
    assert str(error.value).startswith(f"{tmp_path}/{problem}")


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match=r"none: No such file or directory$"):
        read_trace(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadTrace, match=r"binary: not UTF-8 text$"):
        read_trace(tmp_path / "binary")


def test_arrivals_are_jittered_by_the_seed_and_played_faster() -> None:
    trace = Trace("t", [Request(float(i), 10, 1) for i in range(50)], 16, jitter_s=3.0)
    once, again, other = trace.arrivals(1, 2.0), trace.arrivals(1, 2.0), trace.arrivals(2, 2.0)
    assert once == again != other
    assert [r.arrival_s for r in once] == sorted(r.arrival_s for r in once)
    assert once[-1].arrival_s <= (49 + 3) / 2
    exact = trace_of(Request(0.0, 10, 1), Request(5.0, 10, 1))
    assert [r.arrival_s for r in exact.arrivals(3, 0.5)] == [0.0, 10.0]
