from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest

from gateway.telemetry import Redactor
from gateway.telemetry.logs import set_up

SECRET = "planted-secret-0123456789"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where messages go; logging is as before after the test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_a_json_message_names_time_level_logger_and_worker(stream: io.StringIO) -> None:
    set_up("json", redactor=Redactor(), worker_id=2, stream=stream)
    logging.getLogger("gateway.pool").warning("replica %s is %s", "local/0", "down")
    said = json.loads(stream.getvalue())
    assert said.pop("time").endswith("Z")
    assert said == {"level": "warning", "logger": "gateway.pool", "message": "replica local/0 is down", "worker": 2}


@pytest.mark.parametrize("how", ["json", "pretty"])
def test_secrets_show_neither_in_messages_nor_in_arguments_nor_in_tracebacks(stream: io.StringIO, how: str) -> None:
    """A25"""
    set_up(how, redactor=Redactor([SECRET]), stream=stream)  # type: ignore[arg-type]
    logger = logging.getLogger("gateway")
    logger.info("with %s", SECRET)
    logger.info("with " + SECRET)
    logger.info("with %r", {"authorization": f"Bearer {SECRET}", "other": "sk-abcdefghijklmnop"})
    try:
        raise ValueError(f"cannot use {SECRET}")
    except ValueError:
        logger.exception("failed", stack_info=True)
    said = stream.getvalue()
    assert SECRET not in said
    assert "sk-abcdefghijklmnop" not in said
    assert said.count("[redacted]") >= 5
    assert "ValueError" in said
    assert "Stack (most recent call last)" in said


def test_a_secret_that_json_would_escape_is_found_all_the_same(stream: io.StringIO) -> None:
    """A25"""
    set_up("json", redactor=Redactor(['quo"ted\\d-ünïcode']), stream=stream)
    logging.getLogger("gateway").error('it was quo"ted\\d-ünïcode')
    assert json.loads(stream.getvalue())["message"] == "it was [redacted]"


def test_pretty_messages_cannot_be_forged_by_what_a_client_sent(stream: io.StringIO) -> None:
    set_up("pretty", redactor=Redactor(), worker_id=1, stream=stream)
    logging.getLogger("gateway").info("client sent %s", "a\n12:00:00.000  info  forged\x1b[2J")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("info      worker 1  client sent a")
    assert second.startswith("    12:00")
    assert "\x1b" not in stream.getvalue()


def test_pretty_warnings_are_coloured_on_a_terminal(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "isatty", lambda: True)
    set_up("pretty", redactor=Redactor(), stream=stream)
    logging.getLogger("gateway").error("down")
    logging.getLogger("gateway").info("up")
    down, up = stream.getvalue().splitlines()
    assert "\x1b[31merror   \x1b[0m" in down
    assert "\x1b" not in up


def test_setting_up_again_replaces_the_first_and_obeys_the_level(stream: io.StringIO) -> None:
    set_up("json", redactor=Redactor(), stream=stream)
    second = io.StringIO()
    set_up("json", redactor=Redactor(), level="WARNING", stream=second)
    logging.getLogger("gateway").info("not said")
    logging.getLogger("gateway").warning("said")
    assert stream.getvalue() == ""
    assert [json.loads(line)["message"] for line in second.getvalue().splitlines()] == ["said"]


def test_warnings_become_messages(stream: io.StringIO) -> None:
    set_up("json", redactor=Redactor(), stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    assert "old ways" in json.loads(stream.getvalue())["message"]
