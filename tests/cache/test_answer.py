"""Answers are kept as engines give them, told again in the same shape, and refused unless they ended well."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import httpx2
import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from cache.answer import MAX_SHAPES, Answer, Tokens, assemble, message_of, text_of
from cache.replay import as_events, as_json
from tests.golden.loader import Case, cases

Json = dict[str, object]
DONE = b"data: [DONE]\n\n"
ANSWERED = [c for c in cases() if c.status == 200 and c.name.startswith(("chat-", "completion-"))]
ENDED = [c for c in ANSWERED if b'"length"' not in c.body]
TIMINGS = re.compile(rb',"timings":\{[^}]*\}')


def operation_of(case: Case) -> str:
    return "chat" if case.name.startswith("chat-") else "completions"


def kept(found: Answer | str) -> Answer:
    assert isinstance(found, Answer), found
    return found


def encoded(value: object) -> bytes:
    return msgspec.json.encode(value)


def chunk(delta: Json | None = None, finish: str | None = None, **more: object) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    own = {"id": "i", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": choices}
    return b"data: " + encoded({**own, **more}) + b"\n\n"


def stream(*deltas: Json, finish: str = "stop", done: bytes = DONE) -> bytes:
    return b"".join([chunk(delta) for delta in deltas]) + chunk({}, finish) + done


def whole(message: Json, finish: str | None = "stop", **more: object) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "logprobs": None, "finish_reason": finish}
    return encoded({"id": "i", "object": "chat.completion", "created": 5, "model": "m", "choices": [choice], **more})


def told_again(answer: Answer, *, include_usage: bool = False) -> bytes:
    return b"".join(as_events(answer, "i", 5, include_usage=include_usage))


# Of engines


@pytest.mark.parametrize("case", ENDED, ids=lambda case: case.id)
def test_what_engines_sent_is_told_again_byte_for_byte_but_for_their_timings_and_usage(case: Case) -> None:
    found = assemble(operation_of(case), case.body, case.streams)
    if b'"index":1' in case.body:
        assert found in ("n", "unreadable")
        return
    answer = kept(found)
    first = cast(Json, msgspec.json.decode(case.events[0][6:] if case.streams else case.body))
    new_id, created = str(first["id"]), cast(int, first["created"])
    if case.streams:
        again = b"".join(as_events(answer, new_id, created, include_usage="usage" in case.name))
    else:
        again = as_json(answer, new_id, created)
    expected = TIMINGS.sub(b"", case.body)
    expected = re.sub(rb'"created":\d+', b'"created":%d' % created, expected)
    expected = re.sub(rb'("prompt_tokens":(\d+).*"cached_tokens":)\d+', rb"\g<1>\g<2>", expected)
    assert again == expected


@pytest.mark.parametrize("case", ANSWERED, ids=lambda case: case.id)
def test_what_engines_cut_off_is_refused(case: Case) -> None:
    found = assemble(operation_of(case), case.body, case.streams)
    assert isinstance(found, str) == (b'"length"' in case.body or b'"index":1' in case.body)


@pytest.mark.parametrize("case", [c for c in cases() if c.name.startswith("fault-") and c.streams], ids=lambda c: c.id)
def test_a_stream_that_an_engine_broke_off_is_an_error(case: Case) -> None:
    assert assemble("chat", case.body, True) == "error"


@pytest.mark.parametrize("engine", ["vllm-0.32.0", "llamacpp-2026.10.11549"])
@pytest.mark.parametrize("name", ["chat-stop", "chat-schema", "chat-tool-auto", "chat-tool-named"])
def test_an_engines_stream_and_its_whole_answer_say_the_same(engine: str, name: str) -> None:
    by_id = {case.id: case for case in ENDED}
    answers = [
        kept(assemble("chat", by_id[f"{engine}/{name}{kind}"].body, bool(kind))) for kind in ("", "-stream-usage")
    ]
    assert text_of(answers[0]) == text_of(answers[1])
    assert answers[0].completion_tokens == answers[1].completion_tokens
    others = [as_json(answers[1], "i", 5), told_again(answers[0])]
    assert [
        text_of(kept(assemble("chat", other, form))) for other, form in zip(others, (False, True), strict=True)
    ] == [text_of(answers[0])] * 2


def test_a_stream_takes_less_memory_than_its_bytes() -> None:
    words: list[Json] = [{"content": f" word{i}"} for i in range(500)]
    body = stream({"role": "assistant", "content": ""}, *words)
    answer = kept(assemble("chat", body, True))
    assert len(answer.shapes) == 3
    assert answer.size_bytes < len(body) / 8
    assert told_again(answer) == body


# What is refused


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (whole({"content": "a"}, "length"), "truncated"),
        (whole({"content": "a"}, "content_filter"), "filtered"),
        (whole({"content": "a"}, None), "incomplete"),
        (whole({"content": "a"}, "abort"), "incomplete"),
        (whole({"content": ""}), "empty"),
        (whole({"content": None}), "empty"),
        (encoded({"error": {"message": "x"}}), "error"),
        (encoded({"object": "error", "message": "x"}), "error"),
        (encoded({"choices": []}), "unreadable"),
        (encoded({"choices": [{}, {}]}), "n"),
        (encoded({"detail": "x"}), "unreadable"),
        (b"", "unreadable"),
        (b"[]", "unreadable"),
        (b"<html>", "unreadable"),
        (whole({"content": "a"}).replace(b'"a"', b'"\xff"'), "unreadable"),
        (whole({"content": "a"}).replace(b'"a"', b'"\\ud800"'), "unreadable"),
        (whole({"content": "a"}, usage={"prompt_tokens": "x"}), "unreadable"),
        (whole({"content": "a", "tool_calls": 1}), "unreadable"),
        (b'{"a":' * 100_000, "unreadable"),
    ],
)
def test_a_whole_answer_that_did_not_end_well_is_refused(body: bytes, why: str) -> None:
    assert assemble("chat", body, False) == why


SAID: Json = {"content": "a"}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (stream(SAID, finish="length"), "truncated"),
        (stream(SAID, finish="content_filter"), "filtered"),
        (chunk(SAID) + DONE, "incomplete"),
        (stream(SAID, done=b""), "incomplete"),
        (chunk(SAID) + b'data: {"error":{"message":"x"}}\n\n' + DONE, "error"),
        (stream(SAID) + chunk(SAID), "unreadable"),
        (chunk(SAID) + b"data: null\n\n" + DONE, "unreadable"),
        (chunk(SAID) + b"data: {\n\n" + DONE, "unreadable"),
        (chunk(SAID) + b'data: {"x":1}\n\n' + DONE, "unreadable"),
        (chunk(SAID).replace(b'"index":0', b'"index":1') + stream(SAID), "n"),
        (stream({"role": "assistant", "content": ""}), "empty"),
        (b"", "incomplete"),
        (DONE, "incomplete"),
        (stream(*[{"content": "a", "nonce": i} for i in range(MAX_SHAPES + 1)]), "unreadable"),
    ],
)
def test_a_stream_that_did_not_end_well_is_refused(body: bytes, why: str) -> None:
    assert assemble("chat", body, True) == why


def test_two_choices_in_one_event_are_several_answers() -> None:
    body = stream(SAID).replace(b'"choices":[{', b'"choices":[{"index":0,"delta":{}},{', 1)
    assert assemble("chat", body, True) == "n"


@given(st.binary(max_size=200), st.booleans())
def test_no_body_does_harm(body: bytes, streams: bool) -> None:
    assert isinstance(assemble("chat", body, streams), str)
    assert isinstance(assemble("chat", b"data: " + body + b"\n\n" + stream(SAID), streams), str | Answer)


# Any stream

WORD = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PIECES = st.lists(WORD, max_size=6)
CITATION: Json = {
    "type": "url_citation",
    "url_citation": {"start_index": 0, "end_index": 1, "url": "u", "title": "t"},
}


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Role, reasoning, content or a refusal, tool calls, as engines mix them."""
    deltas: list[Json] = [{"role": "assistant", "content": draw(st.sampled_from(["", None]))}]
    thinks = draw(st.sampled_from(["reasoning_content", "reasoning"]))
    deltas += [{thinks: piece} for piece in draw(PIECES)]
    speaks = draw(st.sampled_from(["content", "refusal"]))
    deltas += [{speaks: piece} for piece in draw(PIECES)]
    if draw(st.booleans()):
        deltas.append({"annotations": [CITATION]})
    for index in range(draw(st.integers(0, 3))):
        opening = {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": draw(WORD)}}
        deltas.append({"content": None, "tool_calls": [opening]})
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in draw(PIECES)]
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "prompt_tokens_details": None}
    tail = chunk(usage=usage) if draw(st.booleans()) else b""
    ending = chunk({"content": draw(WORD)}, "stop", system_fingerprint="fp")
    return b"".join([chunk(delta) for delta in deltas]) + ending + tail + DONE


def texts(body: bytes) -> dict[str, str]:
    """What a client reads from a stream, put together by other means than ours."""
    found: dict[str, str] = {}
    for event in body.split(b"\n\n"):
        if not event.startswith(b"data: {"):
            continue
        for choice in msgspec.json.decode(event[6:])["choices"]:
            delta = choice["delta"]
            for name in ("reasoning_content", "reasoning", "content", "refusal"):
                found[name] = found.get(name, "") + (delta.get(name) or "")
            for call in delta.get("tool_calls") or ():
                for name, said in call["function"].items():
                    key = f"{call['index']} {name}"
                    found[key] = found.get(key, "") + said
    return {name: said for name, said in found.items() if said}


@given(streams())
def test_any_stream_comes_out_as_it_came_in(body: bytes) -> None:
    answer = assemble("chat", body, True)
    if not texts(body) and not any(b'"tool_calls"' in event for event in body.split(b"\n\n")):
        assert answer == "empty"
        return
    answer = kept(answer)
    asked = b'"usage"' in body
    shown = re.sub(rb'"prompt_tokens_details":\{[^}]*\}', b'"prompt_tokens_details":null', told_again(answer))
    assert shown == (re.sub(rb'data: [^\n]*"usage"[^\n]*\n\n', b"", body) if asked else body)
    if asked:
        assert told_again(answer, include_usage=True).replace(b'{"cached_tokens":3}', b"null") == body


@given(streams())
def test_a_stream_asked_for_as_a_whole_answer_and_back_says_the_same(body: bytes) -> None:
    answer = assemble("chat", body, True)
    if isinstance(answer, str):
        return
    as_whole = as_json(answer, "i", 5)
    ChatCompletion.model_validate_json(as_whole)
    back = kept(assemble("chat", as_whole, False))
    assert texts(told_again(back)) == texts(body)
    assert text_of(kept(assemble("chat", told_again(back), True))) == text_of(answer) == text_of(back)


@given(streams(), st.data())
def test_no_stream_that_lacks_its_end_is_kept(body: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(body) - len(DONE)))
    assert isinstance(assemble("chat", body[:cut], True), str)


@given(streams(), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.booleans())
def test_line_ends_comments_and_field_names_make_no_difference(body: bytes, line_end: bytes, marked: bool) -> None:
    other = b": hello\n\n" + body.replace(b"data: ", b"event: message\ndata:" if marked else b"data: ")
    other = (b"\xef\xbb\xbf" if marked else b"") + other.replace(b"\n", line_end)
    assert assemble("chat", other, True) == assemble("chat", body, True)


# Usage

USAGE: Json = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


def usage_in(body: bytes) -> list[object]:
    events = [msgspec.json.decode(e[6:]) for e in body.split(b"\n\n") if e.startswith(b"data: {")]
    return [event["usage"] for event in events if event.get("usage")]


def test_the_whole_prompt_counts_as_cached() -> None:
    details = {"audio_tokens": 1, "cached_tokens": 2}
    answer = kept(assemble("chat", whole(SAID, usage=USAGE | {"prompt_tokens_details": details}), False))
    told = msgspec.json.decode(as_json(answer, "i", 5))["usage"]
    assert told == USAGE | {"prompt_tokens_details": {"audio_tokens": 1, "cached_tokens": 7}}
    assert (answer.prompt_tokens, answer.completion_tokens) == (7, 2)


def test_a_stream_tells_of_usage_only_if_asked() -> None:
    without = kept(assemble("chat", stream(SAID), True, counted=Tokens(7, 2)))
    assert usage_in(told_again(without)) == []
    assert usage_in(told_again(without, include_usage=True)) == [
        USAGE | {"prompt_tokens_details": {"cached_tokens": 7}}
    ]
    body = b"".join([chunk(SAID), chunk({}, "stop"), chunk(usage=USAGE), DONE])
    told = kept(assemble("chat", body, True, counted=Tokens(1, 1)))
    assert usage_in(told_again(told)) == []
    assert usage_in(told_again(told, include_usage=True)) == usage_in(told_again(without, include_usage=True))


def test_an_engine_that_tells_of_usage_unasked_in_its_last_event_is_told_again_so() -> None:
    body = chunk(SAID) + chunk({}, "stop", usage=USAGE) + DONE
    answer = kept(assemble("chat", body, True))
    for asked in (False, True):
        assert len(usage_in(told_again(answer, include_usage=asked))) == 1


def test_running_counts_are_left_out() -> None:
    running = chunk(SAID, usage=USAGE) + chunk(SAID, usage=USAGE | {"completion_tokens": 3})
    body = running + chunk({}, "stop", usage=USAGE) + chunk(usage=USAGE) + DONE
    answer = kept(assemble("chat", body, True))
    assert usage_in(told_again(answer)) == []
    assert len(usage_in(told_again(answer, include_usage=True))) == 1
    assert len(answer.shapes) == 2


def test_events_that_say_usage_is_null_stay_so() -> None:
    body = chunk(SAID, usage=None) + chunk({}, "stop", usage=None) + chunk(usage=USAGE) + DONE
    answer = kept(assemble("chat", body, True))
    assert told_again(answer, include_usage=True).count(b'"usage":null') == 2


def test_an_event_before_the_first_that_has_no_choice_is_told_again() -> None:
    filtered = chunk(prompt_filter_results=[{"prompt_index": 0}])
    answer = kept(assemble("chat", filtered + stream(SAID), True))
    assert told_again(answer) == filtered + stream(SAID)


# Whose own


@pytest.mark.parametrize("body", [stream(SAID), whole(SAID)], ids=["stream", "whole"])
def test_id_instant_and_name_are_those_of_the_new_answer(body: bytes) -> None:
    answer = kept(assemble("chat/completions", body, body.startswith(b"data")))
    assert (answer.operation, answer.model) == ("chat", "m")
    events = [e[6:] for e in as_events(answer, 'a"b', 77, model="nam\n\u00e9", include_usage=True)[:-1]]
    for one in [as_json(answer, 'a"b', 77, model="nam\n\u00e9"), *events]:
        read = msgspec.json.decode(one)
        assert (read["id"], read["created"], read["model"]) == ('a"b', 77, "nam\n\u00e9")


def test_padding_and_the_engines_timings_are_left_out() -> None:
    body = chunk(SAID, obfuscation="xyz") + chunk({}, "stop", timings={"a": 1}) + DONE
    assert told_again(kept(assemble("chat", body, True))) == stream(SAID)


def test_an_answer_survives_being_written_down() -> None:
    answer = kept(assemble("chat", stream(SAID), True, gap_s=0.25))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=Answer) == answer
    assert answer.gap_s == 0.25


# From one form to the other


def test_what_else_an_engine_says_goes_along() -> None:
    body = whole({"content": "a b", "annotations": [1]}, usage=USAGE, citations=["c"], service_tier=None)
    body = body.replace(b'"logprobs":null', b'"logprobs":null,"stop_reason":"x"')
    events = told_again(kept(assemble("chat", body, False)))
    assert [len(re.findall(part, events)) for part in (b'"annotations":.1.', b'"citations":..c', b"stop_reason")] == [
        1
    ] * 3
    back = msgspec.json.decode(as_json(kept(assemble("chat", events, True)), "i", 5))
    assert (back["citations"], back["choices"][0]["stop_reason"]) == (["c"], "x")
    assert back["choices"][0]["message"] == {"role": "assistant", "content": "a b", "annotations": [1]}


def test_tool_calls_keep_what_is_beside_their_function() -> None:
    call = {"id": "c", "type": "function", "extra_content": {"sig": "s"}, "function": {"name": "f", "arguments": "{}"}}
    answer = kept(assemble("chat", whole({"content": None, "tool_calls": [call]}, "tool_calls"), False))
    back = msgspec.json.decode(as_json(kept(assemble("chat", told_again(answer), True)), "i", 5))
    assert back["choices"][0]["message"]["tool_calls"] == [call]


def test_a_function_call_of_the_old_kind_goes_both_ways() -> None:
    called = {"name": "f", "arguments": '{"city": "Paris"}'}
    answer = kept(assemble("chat", whole({"content": None, "function_call": called}, "function_call"), False))
    events = told_again(answer)
    back = msgspec.json.decode(as_json(kept(assemble("chat", events, True)), "i", 5))
    assert back["choices"][0]["message"]["function_call"] == called
    assert text_of(answer) == '[{"arguments":{"city":"Paris"},"name":"f"}]'


def test_parts_that_are_null_say_nothing_and_parts_that_are_not_known_are_kept() -> None:
    function: Json = {"name": "f", "arguments": None, "strict": True}
    calls: list[Json] = [{"index": 0, "id": "c", "type": None, "function": function}, {"index": 1, "id": "d"}]
    body = stream(SAID, {"tool_calls": calls[:1]}, {"tool_calls": calls[1:]}, {"content": 5}).replace(b"5}", b"null}")
    body = chunk(SAID).replace(encoded(SAID), b"null") + body
    answer = kept(assemble("chat", body, True))
    assert told_again(answer) == body
    message = msgspec.json.decode(as_json(answer, "i", 5))["choices"][0]["message"]
    assert message["content"] == "a"
    assert message["tool_calls"] == [
        {"id": "c", "function": {"name": "f", "arguments": "", "strict": True}},
        {"id": "d", "function": {"name": "", "arguments": ""}},
    ]
    again = kept(assemble("chat", as_json(answer, "i", 5), False))
    assert b'"strict":true' in told_again(again)


def test_several_lists_of_annotations_become_one() -> None:
    answer = kept(assemble("chat", stream(SAID, {"annotations": [1]}, {"annotations": [2]}), True))
    assert message_of(answer).fields["annotations"] == b"[1,2]"


def test_content_in_parts_is_kept_as_it_is() -> None:
    parts = [{"type": "text", "text": "a"}]
    answer = kept(assemble("chat", whole({"content": parts}), False))
    assert msgspec.json.decode(text_of(answer)) == parts
    back = msgspec.json.decode(as_json(kept(assemble("chat", told_again(answer), True)), "i", 5))
    assert back["choices"][0]["message"]["content"] == parts


def test_arguments_that_are_no_json_are_compared_as_text() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}
    assert text_of(kept(assemble("chat", stream({"tool_calls": [call]}), True))) == '[{"arguments":"{","name":"f"}]'


def test_a_completion_goes_both_ways() -> None:
    choice = {"index": 0, "text": " Paris is\n\n  old.", "logprobs": None, "finish_reason": "stop"}
    own = {"id": "i", "object": "text_completion", "created": 5, "model": "m"}
    answer = kept(assemble("completions", encoded({**own, "choices": [choice], "usage": USAGE}), False))
    events = as_events(answer, "i", 5, include_usage=True)
    assert len(events) == 6
    back = kept(assemble("completions", b"".join(events), True))
    assert text_of(back) == text_of(answer) == choice["text"]
    read = msgspec.json.decode(as_json(back, "i", 5))
    assert (read["object"], read["choices"]) == ("text_completion", [choice])


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=400))
def test_a_stream_that_is_made_up_comes_in_pieces_of_about_a_word(text: str) -> None:
    answer = kept(assemble("chat", whole({"content": text}), False))
    events = as_events(answer, "i", 5)
    pieces = [msgspec.json.decode(event[6:])["choices"][0]["delta"].get("content") or "" for event in events[:-1]]
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 40


# The official client


def client_of(answer: Answer) -> openai.OpenAI:
    def respond(request: httpx2.Request) -> httpx2.Response:
        asked = msgspec.json.decode(request.content)
        if not asked.get("stream"):
            return httpx2.Response(200, content=as_json(answer, "new", 9), headers={"content-type": "application/json"})
        body = b"".join(as_events(answer, "new", 9, include_usage="stream_options" in asked))
        return httpx2.Response(200, content=body, headers={"content-type": "text/event-stream"})

    http_client = httpx2.Client(transport=httpx2.MockTransport(respond))
    return openai.OpenAI(api_key="k", base_url="http://cache/v1", http_client=http_client, max_retries=0)


CALL: Json = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"city": "Paris"}'}}
FORMS: list[Callable[[], bytes]] = [
    lambda: whole({"content": "It is 5 o'clock.", "tool_calls": [CALL, CALL | {"id": "d"}]}, "tool_calls", usage=USAGE),
    lambda: stream(
        {"role": "assistant", "content": ""},
        {"content": "It is"},
        {"content": " 5 o'clock."},
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": "Paris"}'}}]},
        {"tool_calls": [{"index": 1, **CALL, "id": "d"}]},
        finish="tool_calls",
    ),
]


@pytest.mark.parametrize("body", [form() for form in FORMS], ids=["whole", "stream"])
def test_the_official_client_reads_both_forms(body: bytes) -> None:
    answer = kept(assemble("chat", body, body.startswith(b"data"), counted=Tokens(7, 2)))
    with client_of(answer) as client:
        read = client.chat.completions.create(model="m", messages=[])
        with client.chat.completions.stream(model="m", messages=[], stream_options={"include_usage": True}) as events:
            streamed = events.get_final_completion()
    for completion in (read, streamed):
        said = completion.choices[0].message
        assert (completion.id, completion.created, said.content) == ("new", 9, "It is 5 o'clock.")
        calls = [
            (call.id, call.function.name, call.function.arguments)
            for call in said.tool_calls or ()
            if call.type == "function"
        ]
        assert calls == [("c", "f", '{"city": "Paris"}'), ("d", "f", '{"city": "Paris"}')]
        assert completion.choices[0].finish_reason == "tool_calls"
        assert completion.usage is not None
        assert completion.usage.prompt_tokens_details is not None
        assert completion.usage.prompt_tokens_details.cached_tokens == completion.usage.prompt_tokens == 7


def test_the_order_of_reasoning_content_and_calls_is_kept() -> None:
    message: Json = {"content": "b", "reasoning_content": "a", "tool_calls": [CALL]}
    events = told_again(kept(assemble("chat", whole(message, "tool_calls"), False)))
    places = [events.index(part) for part in (b'"role"', b'"reasoning_content":"a"', b'"content":"b"', b'"tool_calls"')]
    assert all(one < other for one, other in pairwise(places))
