"""How long one prompt and one answer may be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.base import Operation
from gateway.config import Pool
from gateway.errors import InvalidRequest
from gateway.limits.cost import Cost
from gateway.tokens.asked import NAMES
from gateway.tokens.caps import cap_answer, check_prompt
from gateway.tokens.limit_words import limit_words
from gateway.wire import Call, LimitWords, body_for

NEWER = LimitWords("max_completion_tokens", 16)


@dataclass
class Given:
    tokens: int
    setting: str = "tenants.acme.limits.output_tokens"
    whose: str = "organisation 'acme'"


def call(operation: Operation = Operation.CHAT, **fields: Any) -> Call:
    return Call(operation, "m", False, False, json.dumps({"model": "m", **fields}).encode())


def test_without_a_cap_a_call_stays_as_it_is() -> None:
    given = call(max_tokens=10**9)
    assert cap_answer(given, None) is given
    check_prompt(Cost(10**9), None)


@pytest.mark.parametrize("fields", [{}, {"max_tokens": None}, {"n_predict": 5}])
def test_a_call_that_sets_no_limit_gets_the_cap(fields: dict[str, Any]) -> None:
    capped = cap_answer(call(**fields), Given(100))
    assert capped.output_cap == 100
    assert json.loads(body_for(capped, "m")) == {"model": "m", **fields, "max_tokens": 100}
    assert json.loads(body_for(capped, "m", NEWER))["max_completion_tokens"] == 100


def test_the_cap_of_a_completion_is_in_the_only_field_that_it_has() -> None:
    capped = cap_answer(call(Operation.COMPLETIONS, prompt="x"), Given(15))
    for words in (LimitWords(), NEWER):
        assert json.loads(body_for(capped, "e", words)) == {"model": "e", "prompt": "x", "max_tokens": 15}


def test_no_completion_becomes_longer_by_its_cap() -> None:
    capped = cap_answer(call(Operation.COMPLETIONS, prompt="x"), Given(100))
    assert json.loads(body_for(capped, "e", NEWER)) == {"model": "e", "prompt": "x"}
    assert json.loads(body_for(capped, "e"))["max_tokens"] == 100


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_call_within_the_cap_reaches_the_engine_as_it_came(field: str) -> None:
    fields: dict[str, Any] = {field: 100}
    given = call(**fields)
    assert cap_answer(given, Given(100)) is given
    assert body_for(given, "m") is given.body


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n_predict", "MAX_TOKENS", "max_new_tokens"])
def test_a_call_that_asks_for_more_is_refused(field: str) -> None:
    fields: dict[str, Any] = {field: 101}
    with pytest.raises(InvalidRequest) as refused:
        cap_answer(call(**fields), Given(100))
    error = refused.value
    assert (error.code, error.param, error.status) == ("output_tokens_limit", field, 400)
    assert error.message == (
        f"`{field}` is 101, and organisation 'acme' may ask for 100 tokens of one answer at most "
        "(`tenants.acme.limits.output_tokens`)."
    )


@pytest.mark.parametrize("value", ["5", 5.5, -1, [5], True])
def test_what_engines_could_read_as_more_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="must be a whole number of tokens") as refused:
        cap_answer(call(max_tokens=value), Given(100))
    assert (refused.value.code, refused.value.param) == ("invalid_type", "max_tokens")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.text().filter(lambda name: name.casefold() not in NAMES | {"model"}), values, max_size=6))
def test_a24_the_cap_is_all_that_changes(fields: dict[str, Any]) -> None:
    sent = {"model": "m", **fields}
    capped = cap_answer(Call(Operation.CHAT, "m", False, False, json.dumps(sent).encode()), Given(9))
    assert json.loads(body_for(capped, "m")) == sent | {"max_tokens": 9}


@pytest.mark.parametrize("operation", [Operation.EMBEDDINGS, Operation.TOKENIZE])
def test_a_call_without_an_answer_gets_no_cap(operation: Operation) -> None:
    given = call(operation, input="x")
    assert cap_answer(given, Given(1)) is given


@pytest.mark.parametrize(("estimated", "has"), [(True, "about 101"), (False, "101")])
def test_a_prompt_that_is_too_long_is_refused(estimated: bool, has: str) -> None:
    check_prompt(Cost(100), Given(100))
    with pytest.raises(InvalidRequest) as refused:
        check_prompt(Cost(101, estimated=estimated), Given(100, "limits[0].input_tokens", "key 'k'"))
    assert refused.value.code == "input_tokens_limit"
    assert refused.value.message == (
        f"The prompt has {has} tokens, and key 'k' may send 100 in one request at most (`limits[0].input_tokens`)."
    )


OPENAI, VLLM, ANY = (
    LimitWords("max_completion_tokens", 16),
    LimitWords("max_tokens", 16),
    LimitWords("max_tokens", None),
)


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        ([("azure", "https://x.example")], OPENAI),
        ([("openai", "https://api.openai.com")], OPENAI),
        ([("openai", "https://openai.com.evil.example")], ANY),
        ([("openai", "http://gpu:8000")], ANY),
        ([("llamacpp", "http://gpu:8000")], ANY),
        ([("vllm", "http://gpu:8000")], VLLM),
        ([("openai", "https://api.openai.com"), ("vllm", "http://gpu:8000")], VLLM),
        ([("openai", "https://api.openai.com"), ("llamacpp", "http://gpu:8000")], ANY),
    ],
)
def test_engines_are_told_by_what_they_know(pools: list[tuple[str, str]], words: LimitWords) -> None:
    made = [Pool.model_validate({"engine": {"kind": kind}, "urls": [url]}) for kind, url in pools]
    assert limit_words(made) == words
