"""What was said, put together and redacted."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.usage.transcript import BLANK, answer_of, prompt_of, redactor

EMAIL = r"[\w.]+@[\w.]+\.\w+"
redact = redactor([EMAIL, r"\b\d{16}\b"])


def event(**choice: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps({"choices": [{"index": 0} | choice]}).encode()


def test_every_text_of_a_prompt_is_redacted_and_nothing_else() -> None:
    body = {
        "model": "m",
        "temperature": 0.5,
        "messages": [
            {"role": "user", "content": "I am a.b@example.org"},
            {"role": "user", "content": [{"type": "text", "text": "4111111111111111"}]},
        ],
    }
    found = prompt_of(json.dumps(body).encode(), redact)
    assert found == {
        "model": "m",
        "temperature": 0.5,
        "messages": [
            {"role": "user", "content": f"I am {BLANK}"},
            {"role": "user", "content": [{"type": "text", "text": BLANK}]},
        ],
    }


def test_what_is_spread_over_events_is_found() -> None:
    stream = event(delta={"role": "assistant"}) + b"".join(event(delta={"content": c}) for c in "mail x@y.org!")
    stream += b": keepalive\n\n" + event(delta={}, finish_reason="stop") + b"data: [DONE]\n\n"
    found = answer_of(stream, redact, stream=True)
    assert found == {"choices": [{"index": 0, "content": f"mail {BLANK}!", "finish_reason": "stop"}]}


def test_tool_calls_reasoning_and_texts_are_put_together() -> None:
    stream = (
        event(delta={"reasoning_content": "hm"})
        + event(delta={"tool_calls": [{"index": 0, "function": {"name": "send", "arguments": '{"to":'}}]})
        + event(delta={"tool_calls": [{"index": 0, "function": {"arguments": '"x@y.org"}'}}, {"index": 1}]})
        + event(index=1, text="a")
        + event(index=1, text="b")
        + b'data: {"error": {"message": "of x@y.org"}}\n\n'
        + b"data: not json\n\ndata: 7\n\n"
    )
    assert answer_of(stream, redact, stream=True) == {
        "choices": [
            {
                "index": 0,
                "reasoning": "hm",
                "tool_calls": [
                    {"index": 0, "name": "send", "arguments": f'{{"to":"{BLANK}"}}'},
                    {"index": 1, "name": "", "arguments": ""},
                ],
            },
            {"index": 1, "text": "ab"},
        ],
        "others": [{"error": {"message": f"of {BLANK}"}}, "not json", 7],
    }


def test_images_are_not_kept_and_what_is_no_json_is_text() -> None:
    image = "data:image/png;base64," + "A" * 5000
    found = prompt_of(json.dumps({"url": image}).encode(), redact)
    assert found == {"url": f"data:image/png;base64,[{len(image)} characters]"}
    assert answer_of(b"\xff a@b.org", redact, stream=False) == f"\ufffd {BLANK}"


@given(st.binary(max_size=300), st.booleans())
def test_any_answer_can_be_kept(body: bytes, stream: bool) -> None:
    json.dumps(answer_of(body, redact, stream=stream))


_NAMES = ("choices", "delta", "index", "content", "tool_calls", "function", "text", "error")
_LEAVES = st.none() | st.integers() | st.text(max_size=5)


def _branches(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=4)


@given(st.recursive(_LEAVES, _branches, max_leaves=20))
def test_any_event_can_be_read(value: object) -> None:
    answer_of(b"data: %b\n\n" % json.dumps({"choices": [value]}).encode(), redact, stream=True)
    answer_of(b"data: %b\n\n" % json.dumps(value).encode(), redact, stream=True)
