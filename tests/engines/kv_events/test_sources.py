"""Where an engine publishes: as it says itself, and as it is configured."""

from __future__ import annotations

import pytest

from engines.kv_events.sources import Source, configured, sources_in

ANSWER = b"""{"0": {"enable_kv_cache_events": true, "publisher": "zmq", "endpoint": "tcp://*:5557",
 "replay_endpoint": "tcp://*:5558", "buffer_steps": 10000, "hwm": 100000, "max_queue_size": 100000, "topic": "kv"},
 "1": {"enable_kv_cache_events": true, "publisher": "zmq", "endpoint": "tcp://*:5558", "replay_endpoint": null,
 "topic": ""}}"""


def test_an_engines_own_answer_is_read_with_its_host_in_place_of_any() -> None:
    """As vLLM 0.32 gives it for two data-parallel ranks."""
    assert sources_in(ANSWER, "https://gpu7.example:8000/v1") == [
        Source("tcp://gpu7.example:5557", "tcp://gpu7.example:5558", "kv"),
        Source("tcp://gpu7.example:5558", rank=1),
    ]


@pytest.mark.parametrize(
    ("endpoint", "connected"),
    [
        ("tcp://0.0.0.0:5557", "tcp://[fd00::1]:5557"),
        ("tcp://[::]:5557", "tcp://[fd00::1]:5557"),
        ("tcp://10.0.0.9:5557", "tcp://10.0.0.9:5557"),
        ("ipc:///tmp/kv", "ipc:///tmp/kv"),
    ],
)
def test_an_endpoint_of_a_machine_of_its_own_stays(endpoint: str, connected: str) -> None:
    told = b'{"0": {"endpoint": "%b"}}' % endpoint.encode()
    assert sources_in(told, "http://[fd00::1]:8000") == [Source(connected)]


@pytest.mark.parametrize(
    "answer",
    [
        b"{}",
        b'{"0": {"enable_kv_cache_events": false, "endpoint": "tcp://*:5557"}}',
        b'{"0": {"publisher": "null", "endpoint": "tcp://*:5557"}}',
        b'{"0": {"endpoint": "inproc://kv"}}',
        b'{"0": {"endpoint": "tcp://*:0"}}',
    ],
)
def test_what_cannot_be_read_from_here_is_no_source(answer: bytes) -> None:
    assert sources_in(answer, "http://127.0.0.1:8000") == []


def test_a_replay_endpoint_that_cannot_be_reached_is_none() -> None:
    told = b'{"0": {"endpoint": "tcp://*:5557", "replay_endpoint": "inproc://replay"}}'
    assert sources_in(told, "http://127.0.0.1:8000") == [Source("tcp://127.0.0.1:5557")]


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"0": {}}', b'{"x": {"endpoint": ""}}', b"<html>", b"\xff"])
def test_what_is_no_such_answer_is_said(answer: bytes) -> None:
    with pytest.raises(ValueError, match="/kv_event_sources"):
        sources_in(answer, "http://127.0.0.1:8000")


def test_the_ports_of_further_ranks_follow() -> None:
    assert configured("tcp://*:5557", "tcp://*:6557", "kv", 2, "http://10.0.0.1:8000") == [
        Source("tcp://10.0.0.1:5557", "tcp://10.0.0.1:6557", "kv", 0),
        Source("tcp://10.0.0.1:5558", "tcp://10.0.0.1:6558", "kv", 1),
    ]
    assert configured("ipc:///tmp/kv", "", "", 1, "http://10.0.0.1") == [Source("ipc:///tmp/kv")]
