"""Figures from outcomes whose values are known."""

from __future__ import annotations

import json

import pytest

from loadtest import Failure, Results, Slo, summarize, table
from loadtest.report import quantile, quantiles_ms
from loadtest.results import Outcome


def outcome(sent_s: float, ttft_s: float, e2e_s: float, tokens: int, **more: object) -> Outcome:
    first_s, end_s = sent_s + ttft_s, sent_s + e2e_s
    made = Outcome(sent_s, sent_s, True, first_s=first_s, end_s=end_s, chunks=tokens, tokens=tokens, status=200)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def results(*outcomes: Outcome, wall_s: float = 10.0) -> Results:
    found = Results(wall_s=wall_s)
    for one in outcomes:
        found.add(one)
    return found


def test_figures_follow_their_definitions() -> None:
    report = summarize(results(outcome(1.0, 0.5, 2.5, 5, gaps_s=[0.4, 0.6])))
    assert report.ttft_ms is not None and report.ttft_ms.p50 == 500.0
    assert report.e2e_ms is not None and report.e2e_ms.p99 == 2500.0
    assert report.tpot_ms is not None and report.tpot_ms.mean == 500.0  # (2.5 - 0.5) / (5 - 1)
    assert report.itl_ms is not None and (report.itl_ms.count, report.itl_ms.mean) == (2, 500.0)
    assert (report.requests_per_s, report.tokens_per_s) == (0.1, 0.5)


def test_tpot_of_one_token_is_undefined() -> None:
    assert summarize(results(outcome(0.0, 0.1, 0.2, 1))).tpot_ms is None


def test_failures_are_counted_by_kind_and_stay_out_of_the_times() -> None:
    found = results(
        outcome(0.0, 0.1, 0.2, 2),
        outcome(0.0, 9.0, 9.9, 2, failure=Failure.CUT),
        outcome(0.0, 9.0, 9.9, 2, failure=Failure.STATUS, status=503),
    )
    report = summarize(found)
    assert (report.requests, report.succeeded) == (3, 1)
    assert report.failures == {"cut": 1, "status": 1}
    assert report.statuses == {200: 2, 503: 1}
    assert report.e2e_ms is not None and report.e2e_ms.max == 200.0


def test_goodput_counts_successes_that_met_every_slo() -> None:
    found = results(
        outcome(0.0, 0.1, 1.0, 10),
        outcome(0.0, 0.3, 1.0, 10),  # its first token is late
        outcome(0.0, 0.1, 3.0, 10),  # its tokens are slow
        outcome(0.0, 0.1, 0.2, 1),  # has no TPOT to miss
        outcome(0.0, 0.1, 1.0, 10, failure=Failure.CUT),
    )
    assert summarize(found, Slo(ttft_s=0.2, tpot_s=0.15)).goodput == 0.2
    assert summarize(found).goodput == 0.4


def test_quantiles_are_linear_between_neighbours() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.5
    assert quantile([7.0], 0.99) == 7.0
    assert quantiles_ms([]) is None
    assert quantiles_ms([float("nan")]) is None


def test_gaps_belong_to_their_request() -> None:
    found = results(outcome(0, 1, 2, 2, gaps_s=[0.1]), outcome(0, 1, 2, 1), outcome(0, 1, 2, 3, gaps_s=[0.2, 0.3]))
    assert [list(found.gaps_of(row)) for row in range(3)] == [[0.1], [], [0.2, 0.3]]


def test_the_table_and_the_json_say_the_same() -> None:
    report = summarize(results(outcome(0, 0.1, 0.5, 5), outcome(0, 0, 0, 0, failure=Failure.CONNECT, status=0)))
    text = table(report)
    assert "2 in 10.00 s, 1 succeeded" in text
    assert "1 connect (statuses: 1 x none, 1 x 200)" in text
    assert json.loads(report.json())["ttft_ms"]["p50"] == pytest.approx(100.0)
