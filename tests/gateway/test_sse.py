"""The event filter: what it lets through, and what it learns, wherever the stream is cut."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.http1 import ResponseDecoder
from gateway.record import Usage
from gateway.sse import MAX_EVENT_BYTES, EventFilter, event_data
from tests.golden.loader import Case, cases

_STREAMS = [case for case in cases() if case.streams]


@dataclass
class Seen:
    out: bytes
    error: bytes | None
    content: bool
    usage: Usage | None
    finish_reason: str
    events: int
    done: bool


def run(pieces: Iterable[bytes], *, strip: bool) -> Seen:
    """What comes out, the unfinished rest included, until the end or an error."""
    events = EventFilter(strip_usage=strip)
    out = b""
    content = False
    total = 0
    for piece in pieces:
        total += len(piece)
        feed = events.feed(piece)
        out += feed.out
        content = content or feed.content
        assert len(events.held) + len(out) <= total
        if feed.error is not None:
            return Seen(out, feed.error, content, events.usage, events.finish_reason, events.events, events.done)
    return Seen(out + events.held, None, content, events.usage, events.finish_reason, events.events, events.done)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


def chunk(**fields: Any) -> str:
    return json.dumps({"id": "c", "object": "chat.completion.chunk"} | fields, separators=(",", ":"))


def choice(delta: dict[str, Any] | None = None, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"index": index, "delta": delta or {}, "finish_reason": finish}


TOKEN = chunk(choices=[choice({"content": 'Hi "usage" \U0001f600'})])
ROLE = chunk(choices=[choice({"role": "assistant", "content": ""})])
FINISH = chunk(choices=[choice(finish="stop")])
USAGE = chunk(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
USAGE_AND_TEXT = chunk(choices=[choice({"content": "x"})], usage={"prompt_tokens": 7, "completion_tokens": 1})
NO_USAGE = chunk(choices=[], usage=None)
ERROR = '{"error": {"message": "boom", "code": 500}}'

_PASSED = st.sampled_from(
    [TOKEN, TOKEN, ROLE, FINISH, USAGE_AND_TEXT, NO_USAGE, "null", "[1]", '{"choices":5}', "not json", "[DONE]"]
)
_LINE_END = st.sampled_from([b"\n", b"\r\n", b"\r"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, bytes, int]:
    """A stream; the same without what is to be stripped; how many events with data it has, up to an error."""
    end = draw(_LINE_END)
    begin = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    whole = kept = b""
    count = 0
    for kind in draw(
        st.lists(st.sampled_from(["data", "data", "data", "usage", "comment", "split", "fields", "error"]), max_size=8)
    ):
        sep = draw(st.sampled_from([b"data: ", b"data:"]))
        if kind == "comment":
            event = b": ping" + end + end
        elif kind == "split":
            event = sep + b"{" + end + sep + b'"choices":[]}' + end + end
        elif kind == "fields":
            event = (
                b"event: message" + end + b"id: 1" + end + sep + draw(_PASSED).encode() + end + b"retry: 5" + end + end
            )
        else:
            text = {"usage": USAGE, "error": ERROR}.get(kind) or draw(_PASSED)
            event = sep + text.encode() + end + end
        event, begin = begin + event, b""
        count += kind != "comment"
        whole += event
        if kind == "error":
            return whole + b"data: [DONE]" + end + end, kept, count
        if kind != "usage":
            kept += event
    rest = draw(st.sampled_from([b"", b"data: unfinished", b"data"]))
    return whole + rest, kept + rest, count


@given(streams(), st.lists(st.integers(0, 1 << 16), max_size=10))
def test_a_stream_leaves_as_it_came_but_for_the_usage_event_wherever_it_is_cut(
    stream: tuple[bytes, bytes, int], places: list[int]
) -> None:
    whole, kept, count = stream
    first = run([whole] if whole else [], strip=True)
    assert first.out == kept
    assert first.events == count
    assert run(cut(whole, places), strip=True) == first
    assert run([whole[i : i + 1] for i in range(len(whole))], strip=True) == first


@given(streams(), st.lists(st.integers(0, 1 << 16), max_size=10))
def test_a_client_that_asked_for_usage_gets_every_byte(stream: tuple[bytes, bytes, int], places: list[int]) -> None:
    whole = stream[0]
    seen = run(cut(whole, places), strip=False)
    if seen.error is None:
        assert seen.out == whole
    else:
        assert whole.startswith(seen.out)
        assert json.loads(seen.error)["error"]["message"] == "boom"


def sse(*datas: str, end: str = "\n") -> bytes:
    return "".join(f"data: {data}{end}{end}" for data in datas).encode()


def test_what_was_learnt_is_there_when_the_stream_ends() -> None:
    seen = run([sse(ROLE, TOKEN, FINISH, USAGE, "[DONE]")], strip=True)
    assert seen == Seen(sse(ROLE, TOKEN, FINISH, "[DONE]"), None, True, Usage(7, 3), "stop", 5, True)


@pytest.mark.parametrize(
    ("delta", "says"),
    [
        ({"role": "assistant", "content": ""}, False),
        ({"role": "assistant", "content": None}, False),
        ({"content": "a"}, True),
        ({"reasoning_content": "a"}, True),
        ({"reasoning": "a"}, True),
        ({"refusal": "no"}, True),
        ({"tool_calls": []}, False),
        ({"tool_calls": None}, False),
        ({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}, True),
        ({"function_call": None}, False),
        ({"function_call": {"name": "f"}}, True),
        ({}, False),
    ],
)
def test_the_first_token_is_the_first_thing_said(delta: dict[str, Any], says: bool) -> None:
    assert EventFilter(strip_usage=True).feed(sse(chunk(choices=[choice(delta)]))).content is says


def test_text_of_a_completion_is_content() -> None:
    assert EventFilter(strip_usage=True).feed(sse('{"choices":[{"index":0,"text":"a"}]}')).content
    assert not EventFilter(strip_usage=True).feed(sse('{"choices":[{"index":0,"text":""}]}')).content


def test_details_of_usage_are_read_also_when_they_are_null() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 5}, "completion_tokens_details": {"reasoning_tokens": 2}}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    assert run([sse(chunk(choices=[], usage=usage | details))], strip=True).usage == Usage(7, 3, 5, 2)
    nulls = {"prompt_tokens_details": None, "completion_tokens_details": {"reasoning_tokens": None}}
    assert run([sse(chunk(choices=[], usage=usage | nulls))], strip=True).usage == Usage(7, 3)


def test_usage_that_comes_once_for_each_choice_is_summed() -> None:
    """A06: llama.cpp, n=2, in a chat: two events without choices."""
    parts = [chunk(choices=[], usage={"prompt_tokens": 7, "completion_tokens": n}) for n in (6, 4)]
    assert run([sse(*parts)], strip=True).usage == Usage(7, 10)


def test_usage_in_the_last_event_of_each_choice_is_summed_and_not_stripped() -> None:
    """A06: llama.cpp, n=2, a completion: usage beside each finish reason."""
    parts = [
        chunk(choices=[choice(finish="stop", index=n)], usage={"prompt_tokens": 7, "completion_tokens": 5})
        for n in (0, 1)
    ]
    seen = run([sse(*parts)], strip=True)
    assert (seen.usage, seen.out) == (Usage(7, 10), sse(*parts))


def test_usage_that_grows_with_every_token_ends_at_its_last_value() -> None:
    """A06: vLLM with `continuous_usage_stats`: figures so far, and a total over all choices in the end."""
    so_far = [
        chunk(
            choices=[choice({"content": "x"}, index=n % 2)], usage={"prompt_tokens": 7, "completion_tokens": n // 2 + 1}
        )
        for n in range(6)
    ]
    assert run([sse(*so_far)], strip=False).usage == Usage(7, 6)
    total = chunk(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 6})
    assert run([sse(*so_far, total)], strip=False).usage == Usage(7, 6)


@pytest.mark.parametrize(
    "error",
    [
        ERROR,
        '{"error":"boom"}',
        '{"error":{"message":"boom"},"choices":[]}',
        '{"object": "error", "message": "boom", "code": 400}',
    ],
)
def test_an_error_ends_the_stream_and_no_done_follows_it(error: str) -> None:
    """A08: what the engine sends after an error, such as vLLM's clean `[DONE]`, is not passed on."""
    events = EventFilter(strip_usage=True)
    feed = events.feed(sse(TOKEN, error, "[DONE]"))
    assert (feed.out, feed.error, events.done) == (sse(TOKEN), error.encode(), False)


@pytest.mark.parametrize(
    "data", ['{"error":null,"choices":[]}', chunk(choices=[choice({"content": '"error"'})]), "null"]
)
def test_what_only_looks_like_an_error_passes(data: str) -> None:
    feed = EventFilter(strip_usage=True).feed(sse(data))
    assert (feed.out, feed.error) == (sse(data), None)


def test_a_stream_is_complete_when_each_choice_has_ended_or_it_says_so() -> None:
    """A08"""
    events = EventFilter(strip_usage=True, choices=2)
    told = [events.complete]
    for index in (0, 0, 1):
        events.feed(sse(chunk(choices=[choice(finish="stop", index=index)])))
        told.append(events.complete)
    assert told == [False, False, False, True]
    short = EventFilter(strip_usage=True, choices=2)
    short.feed(sse("[DONE]"))
    assert short.complete


@pytest.mark.parametrize("data", ["[DONE]", "[DONE] ", "[DONE]\r"])
def test_done_is_done_as_the_sdks_read_it(data: str) -> None:
    assert run([f"data: {data}\n\n".encode()], strip=True).done


@pytest.mark.parametrize(
    "data", ["[" * 100_000, "[" * 900 + "]" * 900, '{"x":"\udcff"}', "{", '"', "1e", '{"choices":[1]}']
)
def test_what_is_no_chunk_passes_untouched(data: str) -> None:
    raw = b"data: " + data.encode(errors="surrogateescape") + b"\n\n"
    assert run([raw], strip=True).out == raw


def test_an_event_without_an_end_is_bounded() -> None:
    events = EventFilter(strip_usage=True)
    events.feed(b"data: " + b"x" * (MAX_EVENT_BYTES - 6))
    with pytest.raises(ValueError, match=f"over {MAX_EVENT_BYTES} bytes"):
        events.feed(b"x")


def test_a_filter_says_whether_an_event_is_half_read() -> None:
    events = EventFilter(strip_usage=True)
    told = [events.between_events]
    for piece in (b"data: ", b"x\r", b"\n\r", b"\n", b"data: y\n", b"\n"):
        events.feed(piece)
        told.append(events.between_events)
    assert told == [True, False, False, False, True, False, True]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"data: x\r\n\r\n", b"x"),
        (b"data: x\r\r", b"x"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"id: 1\ndata: a\nevent: e\n\n", b"a"),
        (b"\xef\xbb\xbfdata: x\n\n", b"x"),
        (b"data\n\n", b""),
        (b": data: x\n\n", b""),
        (b"dataset: x\n\n", b""),
        (b"\n\n", b""),
    ],
)
def test_data_is_read_as_the_specification_has_it(event: bytes, data: bytes) -> None:
    assert event_data(event) == data


class Body:
    """Takes a decoder's payloads through a filter."""

    def __init__(self, events: EventFilter) -> None:
        self.events = events
        self.out = b""
        self.error: bytes | None = None

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        pass

    def on_body(self, payload: bytes, framed: bytes | None) -> None:
        if self.error is None:
            feed = self.events.feed(payload)
            self.out += feed.out
            self.error = feed.error

    def on_complete(self) -> None:
        self.out += self.events.held if self.error is None else b""


def through(pieces: Iterable[bytes], *, strip: bool) -> Body:
    body = Body(EventFilter(strip_usage=strip))
    decoder = ResponseDecoder()
    decoder.start(body)
    for piece in pieces:
        decoder.feed(piece)
    assert decoder.complete
    return body


def stripped(case: Case) -> bytes:
    """The recorded events but for those that hold usage and no choices, up to an error; read by other means."""
    kept = []
    for event in case.events:
        data = event.removeprefix(b"data: ")
        value = json.loads(data) if data != b"[DONE]" else None
        if isinstance(value, dict) and value.get("error"):
            break
        if not (isinstance(value, dict) and value.get("usage") and not value["choices"]):
            kept.append(event + b"\n\n")
    return b"".join(kept)


@pytest.mark.parametrize("case", _STREAMS, ids=lambda case: case.id)
def test_recorded_streams_pass_byte_for_byte_at_every_cut(case: Case) -> None:
    """A06: llama.cpp and vLLM, decoder and filter together."""
    expected = stripped(case)
    first = through([case.raw], strip=True)
    assert first.out == expected
    for place in range(1, len(case.raw)):
        body = through([case.raw[:place], case.raw[place:]], strip=True)
        assert body.out == expected
        assert (body.error, body.events) == (first.error, first.events)
    drip = through([case.raw[i : i + 1] for i in range(len(case.raw))], strip=True)
    assert (drip.out, drip.error, drip.events) == (expected, first.error, first.events)
    if first.error is None:
        assert through([case.raw], strip=False).out == case.body
        assert first.events.complete


def test_recorded_usage_counts_every_choice() -> None:
    """A06: what the engines said of two choices of six tokens, and of two prompts with four each."""
    expected = {"chat-n2-stream-usage": 12, "completion-two-prompts-stream-usage": 8}
    known = [case for case in _STREAMS if case.name in expected]
    assert {case.engine for case in known} == {"llamacpp", "vllm"}
    for case in known:
        usage = through([case.raw], strip=True).events.usage
        assert usage is not None
        assert usage.completion_tokens == expected[case.name]
