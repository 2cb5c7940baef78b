"""What a call asks: what is never cached, what is found word for word only, and what goes out of date."""

from __future__ import annotations

import json
import timeit
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.asked import Question, Rules, Scope
from cache.canonical import MAX_BODY_BYTES
from cache.question import read_question
from cache.time_bound import is_time_bound

SCOPE = Scope("tenant", "chat", "r1", "public", None, 0, b"s" * 16)
RULES = Rules()
USER = {"role": "user", "content": "How do I sort a list?"}
CALLED = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "42"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def chat(*messages: Any, rules: Rules = RULES, **fields: Any) -> Question:
    body = json.dumps({"model": "m", "messages": list(messages), **fields}).encode()
    return read_question("chat", body, rules, SCOPE)


def completion(prompt: Any, **fields: Any) -> Question:
    return read_question("completions", json.dumps({"prompt": prompt, **fields}).encode(), RULES, SCOPE)


def test_a_plain_question_is_cached_in_both_tiers() -> None:
    question = chat({"role": "system", "content": "Be brief."}, USER, temperature=0.2)
    assert (question.refused, question.semantic_refused, question.ttl_s) == ("", "", None)
    assert question.text == "How do I sort a list?"
    assert len(question.key) == len(question.partition) == 32


def test_only_the_last_user_text_is_left_out_of_the_partition() -> None:
    one, other = chat(USER), chat({**USER, "content": "How can lists be sorted?"})
    assert one.partition == other.partition
    assert one.key != other.key
    assert one.partition != chat({**USER, "name": "Ada"}).partition


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"n": 2}, "n"),
        ({"n": "2"}, "n"),
        ({"best_of": 3}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 0}, "logprobs"),
        ({"top_logprobs": 2}, "logprobs"),
        ({"prompt_logprobs": 0}, "logprobs"),
        ({"temperature": 1.01}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"modalities": ["text", "audio"]}, "media"),
        ({"audio": {"voice": "x"}}, "media"),
        ({"web_search_options": {}}, "time_bound"),
        ({"n": 1, "logprobs": False, "temperature": 1, "modalities": ["text"], "seed": 3, "best_of": 1}, ""),
        ({"n": None, "logprobs": None, "temperature": None, "tools": [], "web_search_options": None}, ""),
    ],
)
def test_what_asks_for_more_than_one_repeatable_text_is_refused(fields: dict[str, Any], why: str) -> None:
    question = chat(USER, **fields)
    assert question.refused == why
    assert bool(question.key) == bool(question.partition) == (not why)
    assert question.semantic_refused == why


@pytest.mark.parametrize("limit", [0.0, 0.7, 2.0])
def test_the_limit_of_the_temperature_is_the_deployments(limit: float) -> None:
    rules = Rules(max_temperature=limit)
    assert chat(USER, rules=rules, temperature=limit).refused == ""
    assert chat(USER, rules=rules, temperature=limit + 0.001).refused == "temperature"
    assert chat(USER, rules=rules).refused == ""


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([USER, CALLED, RESULT], "tool_result"),
        ([USER, CALLED, RESULT, {"role": "assistant", "content": "So"}], "tool_result"),
        ([USER, CALLED, {"role": "function", "name": "f", "content": "1"}], "tool_result"),
        ([{"role": "user", "content": [{"type": "tool_result", "content": "42"}]}], "tool_result"),
        ([], "unreadable"),
        (["hi"], "unreadable"),
        ([{"role": "user", "content": 5}], "unreadable"),
        ([{"role": "user"}], "unreadable"),
    ],
)
def test_a_turn_with_tool_results_or_without_a_meaning_is_refused(messages: list[Any], why: str) -> None:
    assert chat(*messages) == Question(refused=why, semantic_refused=why)


def test_tool_results_of_an_earlier_turn_are_context_like_any_other() -> None:
    question = chat(USER, CALLED, RESULT, {"role": "assistant", "content": "42"}, USER)
    assert (question.refused, question.semantic_refused) == ("", "")
    other = chat(USER, CALLED, {**RESULT, "content": "43"}, {"role": "assistant", "content": "42"}, USER)
    assert question.partition != other.partition


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ({"role": "assistant", "content": "Sure:"}, "no_user_text"),
        ({"role": "system", "content": "Be brief."}, "no_user_text"),
        ({"role": "user", "content": ""}, "no_user_text"),
        ({"role": "user", "content": " \n"}, "no_user_text"),
        ({"role": "user", "content": []}, "media"),
        ({"role": "user", "content": [PICTURE]}, "media"),
        ({"role": "user", "content": [{"type": "text", "text": "What is it?"}, PICTURE]}, "media"),
        ({"role": "user", "content": [{"type": "text"}]}, "media"),
        ({"role": "user", "content": ["bare"]}, "media"),
        ({"role": "user", "content": "a" * 2049}, "long"),
    ],
)
def test_what_has_no_short_user_text_at_its_end_is_found_word_for_word_only(last: Any, why: str) -> None:
    question = chat(USER, last)
    assert (question.refused, question.semantic_refused, question.partition) == ("", why, b"")
    assert len(question.key) == 32
    assert question.key != chat(USER, {**last, "name": "Ada"}).key


def test_pictures_of_earlier_turns_belong_to_the_partition() -> None:
    seen = {"role": "user", "content": [{"type": "text", "text": "Look"}, PICTURE]}
    other = {"role": "user", "content": [{"type": "text", "text": "Look"}, {**PICTURE, "detail": "low"}]}
    assert chat(seen, USER).partition
    assert chat(seen, USER).partition != chat(other, USER).partition


def test_text_in_parts_is_read_and_how_it_is_cut_matters() -> None:
    def parts(*texts: str) -> Question:
        return chat({"role": "user", "content": [{"type": "text", "text": text} for text in texts]})

    assert parts("a", "b").text == "a\nb"
    keys = [
        parts("a", "b"),
        parts("ab"),
        parts("a", "", "b"),
        parts("a\nb"),
        parts("", "ab"),
        chat({**USER, "content": "ab"}),
    ]
    assert len({question.key for question in keys}) == len(keys)
    assert parts("a", "b").partition == parts("x", "y").partition != parts("x").partition


def test_letters_that_look_alike_are_two_keys_but_one_text() -> None:
    composed, apart = chat({**USER, "content": "caf\u00e9?"}), chat({**USER, "content": "cafe\u0301?"})
    assert composed.key != apart.key
    assert composed.text == apart.text == "caf\u00e9?"
    assert composed.partition == apart.partition


def test_of_a_key_that_repeats_the_last_value_counts() -> None:
    body = b'{"messages": [{"role": "user", "content": "a", "content": "b"}], "seed": 1, "seed": 2}'
    assert read_question("chat", body, RULES, SCOPE) == read_question(
        "chat", b'{"seed":2,"messages":[{"content":"b","role":"user"}]}', RULES, SCOPE
    )


@pytest.mark.parametrize(
    ("operation", "body", "why"),
    [
        ("embeddings", b"{}", "operation"),
        ("chat", b"", "unreadable"),
        ("chat", b"[]", "unreadable"),
        ("chat", b"{}", "unreadable"),
        ("chat", b'{"messages": "hi"}', "unreadable"),
        ("chat", b'{"a": "\xff"}', "unreadable"),
        ("chat", b'{"a": "\\ud800"}', "unreadable"),
        ("chat", b'{"a": 1e999}', "unreadable"),
        ("chat", b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "unreadable"),
        ("chat", b" " * (MAX_BODY_BYTES + 1), "large"),
        ("completions", b"{}", "prompt"),
        ("completions", b'{"prompt": ["a"]}', "prompt"),
        ("completions", b'{"prompt": [1, 2]}', "prompt"),
    ],
)
def test_what_cannot_be_read_or_compared_is_refused_and_never_an_error(operation: str, body: bytes, why: str) -> None:
    assert read_question(operation, body, RULES, SCOPE) == Question(refused=why, semantic_refused=why)


NAMES = [
    "messages",
    "role",
    "content",
    "type",
    "text",
    "prompt",
    "n",
    "temperature",
    "logprobs",
    "modalities",
    "tools",
    "x",
]
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5),
    st.sampled_from(["user", "tool", "text", "image_url", "tool_result", "assistant"]),
)  # fmt: skip
BODIES = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["chat", "completions"]), BODIES, BODIES, BODIES)
def test_any_json_is_read_or_refused_and_its_key_is_always_the_same(
    operation: str, messages: Any, content: Any, more: Any
) -> None:
    asked = [{"role": "user", "content": content}]
    for body in (more, {"messages": messages}, {"messages": asked, "prompt": content, "n": more}, {"messages": asked}):
        sent = json.dumps(body).encode()
        question = read_question(operation, sent, RULES, SCOPE)
        assert question == read_question(operation, json.dumps(body, indent=1).encode(), RULES, SCOPE)
        assert bool(question.key) != bool(question.refused)
        assert bool(question.partition) != bool(question.semantic_refused)


def test_integers_of_any_length_are_told_apart() -> None:
    assert chat(USER, seed=2**64 + 1).key != chat(USER, seed=2**64 + 2).key
    assert chat(USER, seed=10**400).key != chat(USER, seed=10**400 + 1).key


def test_nesting_just_as_deep_as_can_be_read_is_read_or_refused() -> None:
    for depth in range(900, 1100, 7):
        body = b'{"messages": [{"role": "user", "content": "hi"}], "a": ' + b"[" * depth + b"]" * depth + b"}"
        assert read_question("chat", body, RULES, SCOPE).refused in ("", "unreadable")


def test_a_body_of_ten_megabytes_costs_nothing() -> None:
    body = b'{"messages": [' + b'{"role": "user", "content": "hi"},' * 300_000 + b"{}]}"
    assert min(timeit.repeat(lambda: read_question("chat", body, RULES, SCOPE), number=10, repeat=3)) < 0.01


def test_a_completion_is_asked_by_its_whole_prompt() -> None:
    one, other = completion("Once upon"), completion("Twice upon")
    assert one.text == "Once upon"
    assert one.partition == other.partition != completion("Once upon", suffix="end").partition
    assert one.key != other.key
    assert one.key != chat({**USER, "content": "Once upon"}).key


TIME_BOUND = """
What's the weather like?|Who is the president of France?|Who's the CEO of OpenAI?|what time is it
What is the date?|What is the latest version of Python?|How many people live there now?
Is the store open right now?|news about AI|What happened last week?|What is on this weekend?
bitcoin price for euros|What is the price of gold?|stock price of Apple|What is the current inflation rate?
Is github down?|What did he say two days ago?|events next month|what's new these days
How much does a Tesla cost?|TODAY'S menu|exchange rate of the euro|who is winning?
Which team is playing tonight?|Wie wird das Wetter?|Wer ist Bundeskanzler?|Was passiert heute?|Wie spät ist es?
Was kostet es jetzt?|Preis von Gold|Kommt er morgen?|die neuesten Nachrichten|Was gibt es diese Woche?
vor drei Tagen|zurzeit offen|Quel temps fait-il aujourd\N{RIGHT SINGLE QUOTATION MARK}hui ?
Quelle heure est-il ?|Qui est le président ?|prix de l'or|Que faire cette semaine ?|taux de change
il y a deux jours|Qu'est-ce qui se passe en ce moment ?|¿Qué hora es?|¿Quién es el presidente de México?
¿Qué pasa hoy?|precio del oro|¿Qué tiempo hace?|el presidente actual|esta semana|hace dos días|今天天气怎么样|今日の天気
"""
TIMELESS = """
How do I sort a list?|Now, explain recursion.|What is the time complexity of quicksort?
electric current in a wire|List the current directory|Who was the president in 1960?
Explain the theory of relativity.|What are the days of the week?|What is a price index?|How long is a year?
What is an open set?|Guten Morgen!|Hier ist ein Text.|Wie sortiere ich eine Liste?|Was ist ein Kurs?
Comment trier une liste ?|¿Cómo se ordena una lista?|the actual reason|Translate to French: good night
date-fns or moment?|Write SELECT now() in SQL|日本語を勉強する方法|What is the next prime?|rm -rf explained
"""


@pytest.mark.parametrize("text", TIME_BOUND.replace("\n", "|").strip("|").split("|"))
def test_what_asks_for_the_present_is_bound_by_time(text: str) -> None:
    assert is_time_bound(text)


@pytest.mark.parametrize("text", TIMELESS.replace("\n", "|").strip("|").split("|"))
def test_what_is_so_at_all_times_is_not(text: str) -> None:
    assert not is_time_bound(text)


def test_time_bound_questions_are_kept_only_where_a_ttl_says_for_how_long() -> None:
    asked = {**USER, "content": "What's the weather in Rome?"}
    assert chat(asked).refused == "time_bound"
    kept = chat(asked, rules=Rules(time_bound_ttl_s=30.0))
    assert (kept.refused, kept.ttl_s) == ("", 30.0)
    assert completion("The latest news is").refused == "time_bound"


def test_what_users_said_earlier_binds_too_but_not_the_system_prompt() -> None:
    weather = {"role": "user", "content": [{"type": "text", "text": "What's the weather in Rome?"}]}
    sunny = {"role": "assistant", "content": "Sunny."}
    assert chat(weather, sunny, {**USER, "content": "And in Paris?"}).refused == "time_bound"
    assert chat(weather, sunny, {"role": "assistant", "content": "In Paris"}).refused == "time_bound"
    assert chat({"role": "system", "content": "Today is Monday."}, USER).refused == ""
    assert (
        chat({"role": "user", "content": [PICTURE, {"type": "text", "text": "Is it today's?"}]}).refused == "time_bound"
    )


def test_of_a_long_text_both_ends_are_read_and_it_costs_little() -> None:
    filler = "The time of the day is now known; a week has days, a year has months. " * 3000
    assert is_time_bound("What's the weather? " + "word " * 40_000)
    assert is_time_bound("word " * 40_000 + "What is the price of gold?")
    assert not is_time_bound("word " * 1000 + "weather " + "word " * 1000)
    assert min(timeit.repeat(lambda: is_time_bound(filler[7:]), number=1, repeat=3)) < 0.02
