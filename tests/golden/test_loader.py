"""The recordings are whole and what the loader says they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from tests.golden.loader import DONE, ROOT, Case, Meta, cases, dechunk, load, save

CASES = cases()
STREAMS = [case for case in CASES if case.streams]
META = Meta("vllm", "0", "POST", "/v1/chat/completions", "2026-01-01", False, [])


def _id(case: Case) -> str:
    return case.id


def test_both_engines_are_recorded_with_streams_answers_and_errors() -> None:
    for engine in ("vllm", "llamacpp"):
        mine = [case for case in CASES if case.engine == engine]
        assert sum(case.streams for case in mine) >= 20
        assert sum(case.status >= 400 for case in mine) >= 10


@pytest.mark.parametrize("case", CASES, ids=_id)
def test_every_body_decodes_and_its_pieces_add_up(case: Case) -> None:
    assert len(case.framed_body) >= len(case.body)
    offsets = [offset for offset, _ in case.meta.pieces]
    times_s = [time_s for _, time_s in case.meta.pieces]
    assert offsets == sorted(set(offsets)) and offsets[-1] == len(case.raw)
    assert times_s == sorted(times_s)


@pytest.mark.parametrize("case", STREAMS, ids=_id)
def test_every_stream_is_chunked_and_ends_with_done_or_an_error(case: Case) -> None:
    assert case.chunked
    assert case.body.endswith(b"\n\n")
    assert all(event.startswith(b"data: ") for event in case.events)
    assert case.events[-1] == DONE or b'{"error":' in case.events[-1]


@pytest.mark.parametrize("case", STREAMS, ids=_id)
def test_every_event_of_a_stream_is_json(case: Case) -> None:
    for event in case.events:
        if event != DONE:
            json.loads(event.removeprefix(b"data: "))


@pytest.mark.parametrize("case", CASES, ids=_id)
def test_a_recording_tells_nothing_of_the_machine_it_was_made_on(case: Case) -> None:
    if case.name == "embeddings-base64":
        return
    assert not re.search(rb"/(home|root|tmp|work|usr|opt|Users)\b", case.raw + case.request)
    assert not re.search(rb"(?<![\w.])(?!127\.0\.0\.1)(\d{1,3}\.){3}\d{1,3}(?![\w.])", case.raw + case.request)


def test_a_stream_has_its_twin_without_streaming_and_the_same_request_otherwise() -> None:
    by_id = {case.id: case for case in CASES}
    for case in STREAMS:
        if twin := by_id.get(case.id.removesuffix("-usage").removesuffix("-stream")):
            asked = json.loads(case.request)
            asked.pop("stream_options", None)
            assert asked == {**json.loads(twin.request), "stream": True}


def test_the_recordings_stay_small() -> None:
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file()) < 1_500_000


def test_a_saved_recording_loads_as_it_was(tmp_path: Path) -> None:
    raw = b"HTTP/1.1 200 OK\r\nA: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    meta = msgspec.structs.replace(META, closed=True, pieces=[(len(raw), 0.5)])
    case = Case("short", meta, b'{"a":1}', raw)
    loaded = load(save(case, tmp_path))
    assert loaded == case
    assert [loaded.id, loaded.status, loaded.body, loaded.streams] == ["vllm-0/short", 200, b"{}", False]
    assert loaded.headers == {b"a": b"1", b"transfer-encoding": b"chunked"}
    assert loaded.events == []


def test_a_get_has_no_request_file_and_loads_with_an_empty_one(tmp_path: Path) -> None:
    case = Case("health", META, b"", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    assert load(save(case, tmp_path)) == case
    assert [path.suffix for path in sorted((tmp_path / "vllm-0").iterdir())] == [".json", ".raw"]
    assert case.chunks == []


def test_a_body_shorter_than_its_length_is_refused() -> None:
    with pytest.raises(ValueError, match="content-length"):
        _ = Case("short", META, b"", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab").body


@pytest.mark.parametrize(
    ("framed", "message"),
    [
        (b"3\r\nab\r\n0\r\n\r\n", "not 3 bytes"),
        (b"2\r\nab\r\n0\r\n\r\nx", "1 bytes follow"),
        (b"2\r\nab\r\n", "not found"),
        (b"zz\r\nab\r\n0\r\n\r\n", "invalid literal"),
    ],
)
def test_a_malformed_chunked_body_is_refused(framed: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dechunk(framed)
