from __future__ import annotations

import sys
import time
import timeit

import msgspec
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.telemetry import Snapshot, merge, render
from gateway.telemetry.series import ALL, REQUEST_DURATION, REQUESTS
from tests.gateway.telemetry.conftest import Make
from tests.gateway.telemetry.records import record
from tests.gateway.telemetry.samples import parse

Rows = list[tuple[tuple[str, ...], list[float]]]
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def _families(text: bytes) -> dict[str, Metric]:
    families = text_string_to_metric_families(text.decode())  # type: ignore[no-untyped-call]
    return {family.name: family for family in families}


async def test_prometheus_gets_openmetrics_if_it_asks_and_plain_text_if_not(make: Make) -> None:
    telemetry = make()
    telemetry.finish(record(), telemetry.begin(record()))
    merged = merge([telemetry.snapshot()])
    plain = render(merged)
    assert plain.content_type.startswith("text/plain; version=0.0.4")
    assert parse(plain.body)
    modern = render(merged, OPENMETRICS)
    assert modern.content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert modern.body.endswith(b"# EOF\n")
    families = _families(modern.body)
    assert families["headrace_requests"].type == "counter"
    assert families["gen_ai_server_request_duration_seconds"].unit == "seconds"


def test_label_values_are_escaped_and_empty_labels_left_out() -> None:
    merged = Snapshot({REQUESTS.name: [(('we"ird\\\n', "", "200", ""), [2.0])]})
    samples = parse(render(merged).body)
    assert samples == {
        (REQUESTS.name, frozenset({("deployment", 'we"ird\\\n'), ("status", "200")})): 2.0,
    }


def test_5000_series_are_rendered_in_under_100_ms() -> None:
    """A22"""
    width = len(REQUEST_DURATION.buckets) + 2
    model = ("chat", "vllm", "a-model-of-usual-length", "org/a-model-of-usual-length")
    histograms: Rows = [((*model[:3], f"{number}", ""), [1.0] * width) for number in range(150)]
    counters: Rows = [(("deployment", f"tenant-{number}", "200", ""), [1.0]) for number in range(2_450)]
    merged = Snapshot({REQUEST_DURATION.name: histograms, REQUESTS.name: counters})
    lines = [line for line in render(merged).body.splitlines() if not line.startswith(b"#")]
    assert len(lines) == 150 * 17 + 2_450 == 5_000
    if sys.gettrace() is None:  # under coverage every line costs several times as much
        # CPU time, because other work on this machine is not the gateway's.
        assert min(timeit.repeat(lambda: render(merged), timer=time.process_time, number=1, repeat=10)) < 0.1


def test_names_follow_prometheus_conventions() -> None:
    for series in ALL.values():
        assert series.name.endswith("_total") == (series.kind == "counter"), series.name
        assert list(series.buckets) == sorted(set(series.buckets)), series.name
        assert set(series.spill) <= set(series.labels), series.name


def test_snapshots_of_another_version_are_merged_as_far_as_they_are_understood() -> None:
    known = (("m", "t", "200", ""), [1.0])
    strange = {
        "headrace_gone_total": [((), [1.0])],
        REQUESTS.name: [known, (("too few",), [1.0]), (known[0], [1.0, 2.0])],
    }
    raw = msgspec.msgpack.encode({"families": strange})
    assert merge([raw]) == Snapshot({REQUESTS.name: [known]}, 100)
