"""What a worker counts, seen through the exposition."""

from __future__ import annotations

import platform
import time

import pytest

from gateway.record import Usage
from gateway.telemetry import Bound, Telemetry, merge, render, retire
from tests.gateway.telemetry.conftest import Make
from tests.gateway.telemetry.records import record, refused
from tests.gateway.telemetry.samples import get, parse, scrape, total

MODEL = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "vllm",
    "gen_ai_request_model": "m",
    "gen_ai_response_model": "org/m",
}


def done(telemetry: Telemetry, *records: object) -> None:
    for one in records:
        telemetry.finish(one, telemetry.begin(one))  # type: ignore[arg-type]


async def test_a_request_counts_once_in_each_metric_it_belongs_to(make: Make) -> None:
    telemetry = make()
    done(telemetry, record())
    seen = scrape(telemetry)
    assert get(seen, "headrace_requests_total", deployment="m", tenant="acme", status="200") == 1
    assert get(seen, "gen_ai_server_request_duration_seconds_count", **MODEL) == 1
    assert get(seen, "gen_ai_server_request_duration_seconds_sum", **MODEL) == pytest.approx(1.0)
    assert get(seen, "gen_ai_server_time_to_first_token_seconds_sum", **MODEL) == pytest.approx(0.05)
    assert get(seen, "gen_ai_server_time_per_output_token_seconds_sum", **MODEL) == pytest.approx(0.1)
    assert get(seen, "headrace_overhead_seconds_sum") == pytest.approx(0.0002)
    assert get(seen, "headrace_cache_requests_total", result="bypass") == 1
    assert get(seen, "headrace_estimated_usage_total") == 0


async def test_tokens_count_by_type_and_as_a_distribution(make: Make) -> None:
    telemetry = make()
    done(telemetry, record(Usage(100, 40, cached_tokens=60, reasoning_tokens=30, estimated=True)))
    seen = scrape(telemetry)
    by_type = {"input": 100, "output": 40, "cached": 60, "reasoning": 30}
    for kind, tokens in by_type.items():
        assert get(seen, "headrace_tokens_total", deployment="m", tenant="acme", type=kind) == tokens
    assert get(seen, "gen_ai_client_token_usage_sum", **MODEL, gen_ai_token_type="input") == 100
    assert get(seen, "gen_ai_client_token_usage_sum", **MODEL, gen_ai_token_type="output") == 40
    assert get(seen, "headrace_estimated_usage_total") == 1


async def test_histogram_buckets_are_cumulative_and_include_their_bound(make: Make) -> None:
    telemetry = make()
    done(telemetry, *(record(Usage(tokens)) for tokens in (1, 2, 4, 5, 10**9)))
    labels = {**MODEL, "gen_ai_token_type": "input"}
    seen = scrape(telemetry)
    counts = [get(seen, "gen_ai_client_token_usage_bucket", **labels, le=le) for le in ("1.0", "4.0", "16.0")]
    assert counts == [1, 3, 4]
    assert get(seen, "gen_ai_client_token_usage_bucket", **labels, le="+Inf") == 5
    assert get(seen, "gen_ai_client_token_usage_count", **labels) == 5


async def test_an_error_is_named_from_a_closed_set_and_has_no_token_times(make: Make) -> None:
    telemetry = make()
    done(telemetry, refused(), record(error_type="an engine's own words", status=500))
    seen = scrape(telemetry)
    counted = {"deployment": "m", "tenant": "acme"}
    assert get(seen, "headrace_requests_total", **counted, status="429", error="rate_limit_exceeded") == 1
    assert get(seen, "headrace_requests_total", **counted, status="500", error="other") == 1
    assert get(seen, "gen_ai_server_request_duration_seconds_count", **MODEL, error_type="_OTHER") == 1
    assert total(seen, "gen_ai_server_request_duration_seconds_count", gen_ai_provider_name="headrace") == 1
    assert total(seen, "gen_ai_server_time_to_first_token_seconds_count") == 0
    assert total(seen, "headrace_stream_aborts_total") == 0


@pytest.mark.parametrize(
    ("status", "error", "side"),
    [
        (499, "client_disconnected", "client"),
        (200, "upstream_died", "engine"),
        (200, "idle_timeout", "engine"),
        (200, "shutting_down", "gateway"),
    ],
)
async def test_a_stream_that_broke_off_says_which_side_ended_it(make: Make, status: int, error: str, side: str) -> None:
    telemetry = make()
    done(telemetry, record(status=status, error_type=error), record(status=status, error_type=error, stream=False))
    assert get(scrape(telemetry), "headrace_stream_aborts_total", side=side) == 1


async def test_one_token_has_no_time_per_output_token(make: Make) -> None:
    telemetry = make()
    done(telemetry, record(Usage(5, 1)))
    assert total(scrape(telemetry), "gen_ai_server_time_per_output_token_seconds_count") == 0


async def test_a_request_that_is_no_inference_counts_as_a_request_only(make: Make) -> None:
    telemetry = make()
    done(telemetry, record(Usage(), operation="", deployment="", path="/v1/models", method="GET"))
    seen = scrape(telemetry)
    assert get(seen, "headrace_requests_total", tenant="acme", status="200") == 1
    assert total(seen, "gen_ai_server_request_duration_seconds_count") == 0
    assert get(seen, "headrace_overhead_seconds_count") == 0


async def test_clock_skew_makes_no_negative_overhead(make: Make) -> None:
    telemetry = make()
    done(telemetry, record(upstream_s=1.5))
    assert get(scrape(telemetry), "headrace_overhead_seconds_sum") == 0


async def test_gauges_go_up_and_down_and_add_up_over_workers(make: Make) -> None:
    """A22"""
    one, two = make(), make()
    one.in_flight("m").inc()
    one.in_flight("m").inc()
    one.in_flight("m").dec()
    two.in_flight("m").inc()
    two.in_flight("made up by a client").inc()
    two.in_flight("made up as well").inc()
    one.connections.inc(3)
    two.connections.inc()
    one.replica_in_flight("local", "local/0").inc()
    two.replica_in_flight("local", "local/0").inc()
    seen = scrape(one, two)
    assert get(seen, "headrace_in_flight", deployment="m") == 2
    assert get(seen, "headrace_in_flight", deployment="other") == 2
    assert get(seen, "headrace_client_connections") == 4
    assert get(seen, "headrace_replica_in_flight", pool="local", replica="local/0") == 2
    assert get(seen, "headrace_workers") == 2
    assert one.in_flight("m").value == 1
    assert repr(one.in_flight("m")) == "<Gauge 1>"


async def test_a_gauge_is_down_again_after_an_error(make: Make) -> None:
    """A03"""
    gauge = make().in_flight("m")
    with pytest.raises(RuntimeError), gauge as inside:
        assert inside.value == 1
        raise RuntimeError
    assert gauge.value == 0


async def test_a_larger_limit_of_tenants_holds_for_the_sum_as_well(make: Make) -> None:
    telemetry = make(max_tenants=300)
    done(telemetry, *(record(tenant=f"t{number}") for number in range(400)))
    seen = scrape(telemetry)
    assert len({labels for name, labels in seen if name == "headrace_requests_total"}) == 301
    assert total(seen, "headrace_requests_total", tenant="t299") == 1
    assert total(seen, "headrace_requests_total", tenant="other") == 100


async def test_a_gauge_can_be_read_when_a_snapshot_is_taken(make: Make) -> None:
    telemetry = make()
    held = {"local/0": 3.0}
    telemetry.watch("headrace_replica_in_flight", lambda: [(("local", name), n) for name, n in held.items()])
    assert total(scrape(telemetry), "headrace_replica_in_flight") == 3
    held["local/0"] = 1.0
    assert total(scrape(telemetry), "headrace_replica_in_flight") == 1
    with pytest.raises(KeyError):
        telemetry.watch("headrace_no_such_metric", list)


async def test_attempts_count_by_outcome(make: Make) -> None:
    telemetry = make()
    telemetry.attempt("local", "local/0", "fine")
    telemetry.attempt("local", "local/0", "fine")
    telemetry.attempt("local", "local/1", "something new")
    seen = scrape(telemetry)
    assert get(seen, "headrace_attempts_total", pool="local", replica="local/0", outcome="fine") == 2
    assert get(seen, "headrace_attempts_total", pool="local", replica="local/1", outcome="other") == 1


async def test_counters_of_a_dead_worker_stay_and_its_gauges_go(make: Make) -> None:
    """A22"""
    dead, alive = make(), make()
    for worker in (dead, alive):
        done(worker, record())
        worker.in_flight("m").inc()
    seen = parse(render(merge(live=[alive.snapshot()], retired=[dead.snapshot()])).body)
    assert get(seen, "headrace_requests_total", deployment="m", tenant="acme", status="200") == 2
    assert get(seen, "gen_ai_server_request_duration_seconds_count", **MODEL) == 2
    assert get(seen, "headrace_in_flight", deployment="m") == 1
    assert get(seen, "headrace_workers") == 1


async def test_many_dead_workers_fold_into_one_snapshot(make: Make) -> None:
    telemetry = make()
    done(telemetry, record())
    folded = b""
    for _ in range(50):
        folded = retire([folded, telemetry.snapshot()] if folded else [telemetry.snapshot()])
    assert len(folded) <= len(telemetry.snapshot())
    seen = parse(render(merge(retired=[folded])).body)
    assert get(seen, "headrace_requests_total", deployment="m", tenant="acme", status="200") == 50
    assert get(seen, "headrace_workers") is None


async def test_build_and_process_are_described(make: Make) -> None:
    one, two = make(), make()
    seen = scrape(one, two)
    assert total(seen, "headrace_build_info", python=platform.python_version()) == 1
    assert total(seen, "process_resident_memory_bytes") > 10e6
    assert total(seen, "process_cpu_seconds_total") > 0.1
    assert 0 <= time.time_ns() / 1e9 - total(seen, "process_start_time_seconds") < 3600


async def test_ten_thousand_tenants_and_made_up_models_make_under_5000_series(make: Make) -> None:
    """A22: 10,000 keys make under 5,000 series, in one worker and in the sum of several that met different ones."""
    workers = [make(deployments=("m", "n", "o")) for _ in range(4)]
    for number in range(10_000):
        worker = workers[number % 4]
        deployment = "mno"[number % 3] if number % 5 else f"made-up-{number}"
        done(worker, record(tenant=f"tenant-{number}", deployment=deployment))
        done(worker, refused(tenant=f"tenant-{number}", deployment=deployment, error_type=f"made-up-{number}"))
    bound = Bound(100)
    merged = merge(live=[worker.snapshot() for worker in workers], bound=bound)
    text = render(merged).body
    series = [line for line in text.splitlines() if not line.startswith(b"#")]
    assert len(series) < 5_000
    seen = parse(text)
    assert total(seen, "headrace_requests_total") == 20_000
    assert len({dict(labels).get("tenant") for name, labels in seen if name == "headrace_requests_total"}) == 101


async def test_hostile_labels_of_every_kind_make_under_5000_series(make: Make) -> None:
    """A22, at the worst: engines and pools that come and go under ever new names."""
    telemetry = make(deployments=tuple(f"d{number}" for number in range(200)))
    for number in range(3_000):
        name = f"d{number % 200}"
        done(telemetry, record(tenant=f"t{number}", deployment=name, engine_model=f"e{number}", replica=f"r{number}"))
        telemetry.attempt("local", f"r{number}", "fine")
        telemetry.replica_in_flight("local", f"r{number}")
        telemetry.in_flight(name)
    series = [line for line in render(merge([telemetry.snapshot()])).body.splitlines() if not line.startswith(b"#")]
    assert len(series) < 5_000


async def test_which_tenants_are_named_does_not_change_between_scrapes(make: Make) -> None:
    first, second = make(max_tenants=2), make(max_tenants=2)
    bound = Bound(2)
    done(first, record(tenant="a"), record(tenant="b"), record(tenant="c"))
    before = parse(render(merge(live=[first.snapshot()], bound=bound)).body)
    done(second, record(tenant="c"), record(tenant="d"))
    dead = retire([first.snapshot()], bound=bound)
    after = parse(render(merge(live=[second.snapshot()], retired=[dead], bound=bound)).body)
    for tenant, then, now in (("a", 1, 1), ("b", 1, 1), ("other", 1, 3)):
        assert total(before, "headrace_requests_total", tenant=tenant) == then
        assert total(after, "headrace_requests_total", tenant=tenant) == now
    assert total(after, "headrace_requests_total", tenant="c") == 0


async def test_new_deployments_are_counted_after_a_change_of_configuration(make: Make) -> None:
    telemetry = make(deployments=("m",), access_log={"format": "json", "path": "/dev/null"})
    done(telemetry, record(deployment="new"))
    telemetry.know(("m", "new"))
    done(telemetry, record(deployment="new"))
    seen = scrape(telemetry)
    assert total(seen, "headrace_requests_total", deployment="other") == 1
    assert total(seen, "headrace_requests_total", deployment="new") == 1


async def test_a_traceparent_is_passed_on_unchanged_when_tracing_is_off(make: Make) -> None:
    telemetry = make()
    sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    span = telemetry.begin(record(traceparent=sent))
    assert span.traceparent == sent.encode()
    assert span.trace_id == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "nonsense",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nx-evil: 1",
    ],
)
async def test_a_malformed_traceparent_is_not_passed_on(make: Make, sent: str) -> None:
    span = make().begin(record(traceparent=sent))
    assert span.traceparent is None
    assert span.trace_id == ""


async def test_a_closed_worker_can_still_tell_its_last_numbers(make: Make) -> None:
    telemetry = make()
    done(telemetry, record())
    await telemetry.aclose()
    assert total(scrape(telemetry), "headrace_requests_total") == 1
