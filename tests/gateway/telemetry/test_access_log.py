from __future__ import annotations

import json
import re
import sys
import time
import timeit
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.config import AccessLog as LogOptions
from gateway.config import Telemetry as Options
from gateway.record import Record, Usage
from gateway.telemetry import Redactor, Telemetry
from gateway.telemetry.access_log import AccessLog, Pretty
from tests.gateway.telemetry.records import record, refused


def lines_of(path: Path, *records: Record, redactor: Redactor | None = None, how: str = "json") -> list[str]:
    options = LogOptions.model_validate({"format": how, "path": str(path)})
    log = AccessLog(options, redactor or Redactor(), frozenset({"m"}))
    for one in records:
        log.write(one, "")
    log.close()
    return path.read_text().splitlines()


def test_a_line_says_all_that_is_known_of_a_request(tmp_path: Path) -> None:
    [line] = lines_of(tmp_path / "log", record(Usage(20, 10, 8, estimated=True), error_type="upstream_died"))
    said = json.loads(line)
    when = datetime.fromisoformat(said.pop("time"))
    assert abs(datetime.now(UTC) - when) < timedelta(seconds=10)
    assert said == {
        "request_id": "req_0123456789abcdef0123456789abcdef",
        "client": "192.0.2.7",
        "tenant": "acme",
        "key": "acme-app",
        "method": "POST",
        "path": "/v1/chat/completions",
        "deployment": "m",
        "variant": "m-q4",
        "pool": "local",
        "replica": "local/0",
        "status": 200,
        "error": "upstream_died",
        "stream": True,
        "ttft_ms": 50.0,
        "duration_ms": 1000.0,
        "overhead_ms": 0.2,
        "tokens_in": 20,
        "tokens_out": 10,
        "tokens_cached": 8,
        "estimated": True,
        "finish_reason": "stop",
        "attempts": 1,
        "cache": "bypass",
        "bytes_out": 20_000,
    }


def test_what_does_not_apply_is_left_out(tmp_path: Path) -> None:
    [line] = lines_of(tmp_path / "log", refused(stream=False, bytes_out=0))
    assert not {"ttft_ms", "replica", "tokens_in", "stream", "trace_id", "estimated"} & set(json.loads(line))


async def test_the_trace_id_is_in_the_line(tmp_path: Path) -> None:
    options = Options.model_validate({"access_log": {"path": str(tmp_path / "log")}})
    telemetry = Telemetry(options, deployments=["m"])
    one = record(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    telemetry.finish(one, telemetry.begin(one))
    telemetry.reopen()
    await telemetry.aclose()
    assert json.loads((tmp_path / "log").read_text())["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("how", ["json", "pretty"])
def test_secrets_in_what_a_client_chose_never_show(tmp_path: Path, how: str) -> None:
    """A25"""
    planted = "planted-secret-0123456789"
    redactor = Redactor([planted, "deadbeefdeadbeefdeadbeef"])
    text = "\n".join(
        lines_of(
            tmp_path / "log",
            record(path=f"/v1/models/{planted}"),
            record(path="/v1/chat/completions?api_key=hidden-in-the-query"),
            record(deployment="sk-hr-00112233-abcdefghijklmnop"),
            record(deployment=f"x{planted}y"),
            record(request_id=f"id-{planted}"),
            record(request_id="deadbeefdeadbeefdeadbeef"),
            record(error_type=planted, error_message=f"the key {planted} is wrong"),
            redactor=redactor,
            how=how,
        )
    )
    for secret in (planted, "hidden-in-the-query", "abcdefghijklmnop", "deadbeefdeadbeef"):
        assert secret not in text
    assert "[redacted]" in text


@pytest.mark.parametrize("how", ["json", "pretty"])
def test_a_client_can_neither_forge_lines_nor_drive_the_terminal(tmp_path: Path, how: str) -> None:
    hostile = 'a\nb\r\x1b[2J\u2028\ud800"}'
    lines = lines_of(tmp_path / "log", record(deployment=hostile, request_id=hostile, path=hostile * 200), how=how)
    assert len(lines) == 1
    assert "\x1b" not in lines[0]
    assert len(lines[0]) < 2_000


def test_names_made_up_by_clients_do_not_pile_up_in_memory(tmp_path: Path) -> None:
    log = AccessLog(LogOptions(path=str(tmp_path / "log")), Redactor(), frozenset({"m"}))
    for number in range(5_000):
        log.write(record(deployment=f"made-up-{number}"), "")
    log.close()
    assert len(log._clean) <= 1_002


def test_pretty_lines_are_columns_of_one_width(tmp_path: Path) -> None:
    lines = lines_of(
        tmp_path / "log",
        record(),
        record(Usage(123_456, 9_999), ended_s=1100.0),
        record(Usage(1, 1, estimated=True), ended_s=1000.004, cache="hit"),
        refused(),
        record(operation="", deployment="", path="/v1/models", method="GET", replica="", pool=""),
        how="pretty",
    )
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3}  200   1000ms  ttft   50ms        20→10 tok  m {23}  local/0 {13}  acme-app"
        r"  req_0123456789abcdef0123456789abcdef",
        lines[0],
    )
    assert "100.0s" in lines[1]
    assert "~1→1 tok" in lines[2]
    assert "cache" in lines[2]
    assert "rate_limit_exceeded" in lines[3]
    assert "GET /v1/models" in lines[4]
    assert len({line.index(" tok") for line in lines}) == 1
    assert len({line.index("acme-app") for line in lines}) == 1


@pytest.mark.parametrize(
    ("one", "code"),
    [
        (record(), "32"),
        (refused(), "33"),
        (record(status=502), "31"),
        (record(error_type="upstream_died"), "31"),
    ],
)
def test_colours_tell_success_from_refusal_from_failure(tmp_path: Path, one: Record, code: str) -> None:
    log = AccessLog(LogOptions(path=str(tmp_path / "log")), Redactor(), frozenset({"m"}))
    line = log._line(one, "")
    log.close()
    assert f"\x1b[{code}m{line.status:>3}\x1b[0m" in Pretty(colour=True).format(line)
    assert "\x1b" not in Pretty(colour=False).format(line)


@pytest.mark.parametrize(
    ("tty", "variable", "coloured"),
    [(True, "", True), (True, "NO_COLOR", False), (False, "", False)],
)
def test_colours_are_for_terminals_only(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tty: bool, variable: str, coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    if variable:
        monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: tty)
    log = AccessLog(LogOptions(format="pretty"), Redactor(), frozenset({"m"}))
    log.write(record(), "")
    log.close()
    said = capfd.readouterr().out
    assert "acme-app" in said
    assert ("\x1b[" in said) is coloured


async def test_finishing_a_request_is_cheap() -> None:
    """The budget is 12 us with the JSON log on; ten times that allows for a busy machine."""
    options = Options.model_validate({"access_log": {"path": "/dev/null"}})
    telemetry = Telemetry(options, deployments=["m"])
    one = record()
    span = telemetry.begin(one)
    best_s = (
        min(timeit.repeat(lambda: telemetry.finish(one, span), timer=time.process_time, number=500, repeat=5)) / 500
    )
    await telemetry.aclose()
    assert best_s < 120e-6
