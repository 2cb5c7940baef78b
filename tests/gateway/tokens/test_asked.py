"""How long an answer a body asks for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.base import Operation
from gateway.prompts.body import plain_text_bytes, read_prompt
from gateway.tokens.asked import MOST, NO_ANSWERS, NOTHING_ASKED, Asked, asked
from gateway.wire import Call


def call(body: object, operation: Operation = Operation.CHAT) -> Call:
    return Call(operation, "m", False, False, body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, NOTHING_ASKED),
        ({"max_tokens": None, "n": None}, NOTHING_ASKED),
        ({"max_tokens": 7}, Asked(7, "max_tokens", True)),
        ({"max_tokens": 0}, Asked(0, "max_tokens", True)),
        ({"max_completion_tokens": 9, "max_tokens": 7}, Asked(9, "max_completion_tokens", True)),
        ({"n_predict": 9, "max_tokens": 7}, Asked(9, "n_predict", True)),
        ({"n_predict": 9}, Asked(9, "n_predict", False)),
        ({"Max_Tokens": 9}, Asked(9, "Max_Tokens", False)),
        ({"max_to\u212aen\u017f": 9}, Asked(9, "max_to\u212aen\u017f", False)),
        ({"max_tokens": 7, "n": 3}, Asked(7, "max_tokens", True, 3)),
        ({"n": 2, "best_of": 5}, Asked(answers=5)),
        ({"n": "2"}, NOTHING_ASKED),
        ({"max_tokens": "7"}, Asked(odd="max_tokens")),
        ({"max_tokens": 7.0}, Asked(odd="max_tokens")),
        ({"max_tokens": -1}, Asked(odd="max_tokens")),
        ({"max_tokens": True}, Asked(odd="max_tokens")),
        ({"max_new_tokens": {"x": 1}, "max_tokens": 3}, Asked(3, "max_tokens", True, 1, "max_new_tokens")),
        ({"max_tokens": 10**30}, Asked(MOST, "max_tokens", True)),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", Asked(MOST, "max_tokens", True)),
        (b'{"max_tokens": 7, "max_tokens": 9}', Asked(9, "max_tokens", True)),
        (b'{"max\\u005ftokens": 7}', Asked(7, "max_tokens", True)),
        (b"[1]", NOTHING_ASKED),
        (b"\xff", NOTHING_ASKED),
    ],
)
def test_the_largest_number_of_tokens_counts_however_the_field_is_called(body: object, expected: Asked) -> None:
    assert asked(call(body)) == expected


@pytest.mark.parametrize(
    ("prompt", "answers"),
    [
        ("text", 2),
        ([1, 2, 3], 2),
        (["a", "b", "c"], 6),
        ([[1], [2]], 4),
        ([], 2),
        (None, 2),
    ],
)
def test_each_prompt_of_a_completion_has_answers_of_its_own(prompt: Any, answers: int) -> None:
    assert asked(call({"prompt": prompt, "n": 2}, Operation.COMPLETIONS)).answers == answers


@pytest.mark.parametrize("operation", [Operation.EMBEDDINGS, Operation.TOKENIZE, Operation.DETOKENIZE])
def test_what_has_no_answer_of_tokens_asks_for_none(operation: Operation) -> None:
    assert asked(call({"max_tokens": 5, "input": "x"}, operation)) == NO_ANSWERS


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists).map(
        lambda value: json.dumps({"max_tokens": value, "n": value, "prompt": value}).encode()
    )
)
def test_no_body_makes_it_stumble(body: bytes) -> None:
    for operation in Operation:
        found = asked(call(body, operation))
        assert found.answers >= 0
        assert found.tokens is None or 0 <= found.tokens <= MOST


FIELDS = {
    "stream": False,
    "stream_options": {"include_usage": True},
    "temperature": 0.7,
    "top_p": None,
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "stop": ["x"],
    "user": "somebody",
    "response_format": {"type": "json_object"},
    "max_completion_tokens": 9,
    "n": 3,
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_chat_of_texts_is_read_in_one_look_whatever_else_it_asks(name: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hé"}], "max_tokens": 5, name: FIELDS[name]}
    plain = call(body).plain
    assert plain is not None
    assert asked(call(body)) == asked_slowly(body)
    prompt = read_prompt(Operation.CHAT, call(body).body, {})
    assert prompt is not None
    assert plain_text_bytes(plain) == prompt.text_bytes


def asked_slowly(body: dict[str, Any]) -> Asked:
    """By the way that every body takes which is more than that."""
    return asked(call(body | {"extra": 1}))


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "x", "name": "bob"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        {"messages": [], "Max_Tokens": 5},
        {"messages": [], "max_tokens": -1},
        {"messages": [], "max_tokens": "5"},
        {"messages": [], "max_tokens": True},
    ],
)
def test_what_is_more_than_that_is_read_as_ever(body: dict[str, Any]) -> None:
    assert call(body | {"model": "m"}).plain is None
