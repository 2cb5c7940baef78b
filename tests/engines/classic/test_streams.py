"""Streamed answers of model servers, cut anywhere, and the ways in which they break."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.adapter import StreamReader
from engines.base import EngineDied, EngineProtocolError, EngineRequest, Operation
from engines.classic import kserve, streams, tfserving, torchserve
from engines.classic.translator import Server
from gateway.config.template_options import TemplateOptions
from gateway.kinds.classic import translator_for


def reader(server: Server, operation: Operation = Operation.CHAT, **template: str) -> StreamReader:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}
    options = TemplateOptions.model_validate(template)
    request = EngineRequest(operation, json.dumps(body).encode(), stream=True)
    return translator_for(server, options).begin(request).stream()


def read(made: StreamReader, *pieces: bytes) -> list[str]:
    """What the events say: texts, `stop`, `[DONE]`, or the message of an error."""
    events = b"".join([made.feed(piece) for piece in pieces] + [made.finish()])
    return [said for data in events.decode().split("\n\n") if data and (said := what(data.removeprefix("data: ")))]


def what(data: str) -> str:
    if data == "[DONE]":
        return data
    event = json.loads(data)
    if "error" in event:
        return f"error: {event['error']['message']}"
    choice = event["choices"][0]
    return str(choice["finish_reason"] or choice.get("text") or choice["delta"].get("content") or "")


def cut_after_each_byte(body: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in body]


EVENTS = 'data: {"text_output": "Grü"}\r\n\r\n: comment\n\ndata: {"text_output": "ße"}\n\ndata: [DONE]\n\n'.encode()


@given(st.lists(st.integers(0, len(EVENTS)), max_size=8))
def test_events_are_the_same_wherever_they_are_cut(cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(EVENTS)]
    pieces = [EVENTS[start:end] for start, end in itertools.pairwise(at)]
    assert read(reader(kserve.SERVER), *pieces) == ["Grü", "ße", "stop", "[DONE]"]


def test_completions_have_texts() -> None:
    assert read(reader(kserve.SERVER, Operation.COMPLETIONS), EVENTS) == ["Grü", "ße", "stop", "[DONE]"]


def test_the_blank_line_after_the_last_event_may_be_missing() -> None:
    assert read(reader(kserve.SERVER), b'data: {"text_output": "a"}') == ["a", "stop", "[DONE]"]


def test_nothing_follows_an_error() -> None:
    body = b'data: {"text_output": "a"}\n\ndata: {"error": {"message": "no"}}\n\ndata: {"text_output": "b"}\n\n'
    assert read(reader(kserve.SERVER), body) == ["a", "error: no"]


def test_a_stream_in_which_no_event_has_the_path_is_an_error() -> None:
    (said,) = read(reader(kserve.SERVER, stream_answer="token.text"), b'data: {"text": "a"}\n\n')
    assert said.startswith('error: "token.text" leads nowhere')


def test_a_stream_of_plain_events_is_the_text() -> None:
    assert read(reader(kserve.SERVER, stream_answer=""), b"data: a\n\ndata:  b\n\n") == ["a", " b", "stop", "[DONE]"]


def test_a_stream_without_an_event_is_a_dead_server() -> None:
    with pytest.raises(EngineDied):
        reader(kserve.SERVER).finish()


def test_an_event_that_is_no_json_breaks_the_protocol() -> None:
    with pytest.raises(EngineProtocolError):
        reader(kserve.SERVER).feed(b"data: <html>\n\n")


TEXTS: list[tuple[bytes, list[str]]] = [
    ("  Grüße".encode(), ["Grüße"]),
    (b'{"text": "whole"}', ["whole"]),
    (b'"a string"', ["a string"]),
    (b"[no JSON", ["[no JSON"]),
    (b'{"answer": 42}', ['{"answer": 42}']),
    (b"", []),
]


@pytest.mark.parametrize(("body", "said"), TEXTS)
@pytest.mark.parametrize("cut", [lambda body: [body], cut_after_each_byte])
def test_torchserve_streams_text_or_answers_whole(
    body: bytes, said: list[str], cut: Callable[[bytes], list[bytes]]
) -> None:
    found = read(reader(torchserve.SERVER), *cut(body))
    assert found[-2:] == ["stop", "[DONE]"]
    assert "".join(found[:-2]).strip() == "".join(said)


def test_an_error_in_place_of_a_whole_answer_is_one_in_its_stream() -> None:
    assert read(reader(torchserve.SERVER), b'{"error": "worker died"}') == ["error: worker died"]


def test_text_that_is_cut_off_within_a_character_is_still_text() -> None:
    assert read(reader(torchserve.SERVER, stream="text"), "{ü".encode()[:2]) == ["{", "\ufffd", "stop", "[DONE]"]


def test_a_server_that_does_not_stream_gives_one_event() -> None:
    body = b'{"predictions": [{"b64": "Z3LDvMOf"}]}'
    assert read(reader(tfserving.SERVER), *cut_after_each_byte(body)) == ["grüß", "stop", "[DONE]"]


def test_a_whole_answer_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_HELD_BYTES", 10)
    with pytest.raises(EngineProtocolError, match="larger than 10 bytes"):
        reader(tfserving.SERVER).feed(b"x" * 11)
