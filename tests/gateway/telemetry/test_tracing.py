from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanProto
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from gateway.config import Telemetry as Options
from gateway.record import Record
from gateway.telemetry import Redactor, Telemetry, tracing
from tests.gateway.telemetry.collector import Collector, attributes, collecting
from tests.gateway.telemetry.records import record, refused

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def telemetry(endpoint: str, redactor: Redactor | None = None, **options: object) -> Telemetry:
    section = {"otlp_endpoint": endpoint, **options}
    parsed = Options.model_validate({"access_log": {"format": "off"}, "tracing": section})
    return Telemetry(parsed, worker_id=3, deployments=["m"], redactor=redactor)


def live(**changes: object) -> Record:
    """A record with instants of now, because spans have wall times."""
    now_s = time.monotonic()
    return record(**{"started_s": now_s - 1.0, "first_token_s": now_s - 0.95, "ended_s": now_s, **changes})  # type: ignore[arg-type]


async def test_a_request_is_a_server_span_with_the_attributes_of_the_conventions(collector: Collector) -> None:
    worker = telemetry(collector.url, service_name="gateway-eu", otlp_headers={"x-tenant": "obs-key"})
    one = live(traceparent=SAMPLED)
    span = worker.begin(one)
    worker.finish(one, span)
    await worker.aclose()
    [seen] = collector.spans
    assert seen.name == "chat m"
    assert seen.kind == SpanProto.SPAN_KIND_SERVER
    assert seen.trace_id.hex() == TRACE == span.trace_id
    assert seen.parent_span_id.hex() == PARENT
    assert span.traceparent == f"00-{TRACE}-{seen.span_id.hex()}-01".encode()
    assert (seen.end_time_unix_nano - seen.start_time_unix_nano) / 1e9 == pytest.approx(1.0, abs=0.2)
    assert not seen.events
    assert seen.status.code == Status.STATUS_CODE_UNSET
    said = attributes(seen)
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "m",
        "gen_ai.response.model": "org/m",
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.usage.cache_read.input_tokens": 8,
        "gen_ai.response.finish_reasons": ["stop"],
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": "/v1/chat/completions",
        "headrace.tenant": "acme",
        "headrace.replica": "local/0",
        "headrace.request_id": "req_0123456789abcdef0123456789abcdef",
    }
    assert {name: said[name] for name in expected} == expected
    assert collector.resource["service.name"] == "gateway-eu"
    assert collector.resource["service.instance.id"] == "worker-3"
    assert collector.paths == ["/v1/traces"]
    assert collector.headers[0]["x-tenant"] == "obs-key"


async def test_failures_are_marked_and_refusals_are_not_our_error(collector: Collector) -> None:
    worker = telemetry(f"{collector.url}/v1/traces")
    for one in (live(error_type="upstream_died"), live(status=502, error_type="upstream_error"), refused()):
        worker.finish(one, worker.begin(one))
    await worker.aclose()
    assert [span.status.code for span in collector.spans] == [
        Status.STATUS_CODE_ERROR,
        Status.STATUS_CODE_ERROR,
        Status.STATUS_CODE_UNSET,
    ]
    assert [attributes(span)["error.type"] for span in collector.spans] == [
        "upstream_died",
        "upstream_error",
        "rate_limit_exceeded",
    ]
    assert attributes(collector.spans[2])["gen_ai.provider.name"] == "headrace"
    assert collector.paths == ["/v1/traces"]


async def test_the_caller_decides_whether_to_sample_and_else_the_share_does(collector: Collector) -> None:
    worker = telemetry(collector.url, sample=0.0)
    for parent in (SAMPLED, UNSAMPLED, "", "nonsense"):
        one = live(traceparent=parent)
        span = worker.begin(one)
        assert span.traceparent is not None
        sampled = bool(int(span.traceparent[-2:], 16) & 1)
        assert sampled is (parent == SAMPLED)
        worker.finish(one, span)
    await worker.aclose()
    assert [span.parent_span_id.hex() for span in collector.spans] == [PARENT]


async def test_names_made_up_by_clients_make_no_span_names_and_secrets_no_attributes(collector: Collector) -> None:
    """A25"""
    worker = telemetry(collector.url, Redactor(["planted-secret"]))
    one = live(
        deployment="planted-secret",
        path="/v1/planted-secret?api_key=planted-too",
        request_id="planted-secret",
        error_message="planted-secret",
        error_type="planted-secret",
        operation="",
    )
    worker.finish(one, worker.begin(one))
    await worker.aclose()
    [seen] = collector.spans
    assert seen.name == "POST other"
    assert b"planted" not in seen.SerializeToString()


async def test_no_thread_is_left_after_the_close(collector: Collector) -> None:
    before = set(threading.enumerate())
    worker = telemetry(collector.url)
    for _ in range(1_000):
        one = live()
        worker.finish(one, worker.begin(one))
    await worker.aclose()
    pool_or_collector = ("asyncio_", "uvloop_", "Thread-")
    left = [t.name for t in set(threading.enumerate()) - before if not t.name.startswith(pool_or_collector)]
    assert left == []
    assert len(collector.spans) == 1_000


async def test_a_collector_that_is_down_holds_up_neither_requests_nor_the_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        worker = telemetry(f"http://127.0.0.1:{taken.getsockname()[1]}")
        one = live()
        before_s = time.monotonic()
        worker.finish(one, worker.begin(one))
        assert time.monotonic() - before_s < 0.5
        with caplog.at_level(logging.CRITICAL):
            await worker.aclose()
        assert time.monotonic() - before_s < 6.0
    assert not [t for t in threading.enumerate() if "Otel" in t.name]


async def test_a_collector_that_hangs_does_not_hold_up_the_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "EXPORT_TIMEOUT_S", 0.4)
    monkeypatch.setattr(tracing, "CLOSE_S", 0.6)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        worker = telemetry(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        for _ in range(2_000):
            one = live()
            worker.finish(one, worker.begin(one))
        before_s = time.monotonic()
        await worker.aclose()
        assert time.monotonic() - before_s < 1.5
    assert not [t for t in threading.enumerate() if "Otel" in t.name]


def test_the_sdk_is_not_imported_without_an_endpoint() -> None:
    code = (
        "import sys, gateway.telemetry as t, gateway.config as c\n"
        "t.Telemetry(c.Telemetry(access_log=c.AccessLog(format='off')))\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'requests'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
