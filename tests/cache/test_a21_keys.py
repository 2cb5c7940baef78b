"""A21: no two calls that differ in what matters share a key, and but for the last user text none share a partition."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cache.asked import Question, Rules, Scope
from cache.question import read_question

RULES = Rules(max_temperature=2.0, time_bound_ttl_s=60.0)
Body = dict[str, Any]

_words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
_said = st.one_of(_words, st.lists(_words.map(lambda text: {"type": "text", "text": text}), min_size=1, max_size=3))
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=6,
)
_tool = st.fixed_dictionaries(
    {"type": st.just("function"), "function": st.fixed_dictionaries({"name": _words, "parameters": _json})}
)
_turns = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": _said}),
    max_size=3,
)
_settings = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0, 0.1, 0.5, 1, 1.5]),
        "top_p": st.sampled_from([0.1, 0.5, 1]),
        "top_k": st.integers(0, 3),
        "seed": st.integers(-(2**63), 2**64),
        "max_tokens": st.integers(1, 3),
        "stop": st.one_of(_words, st.lists(_words, max_size=2)),
        "presence_penalty": st.sampled_from([-1, 0.5, 1]),
        "logit_bias": st.dictionaries(st.sampled_from(["1", "2"]), st.integers(-2, 2), max_size=2),
        "response_format": st.one_of(st.just({"type": "json_object"}), st.just({"type": "text"}), _json),
        "tool_choice": st.sampled_from(["auto", "none", "required"]),
        "reasoning_effort": st.sampled_from(["low", "high"]),
        "cache_salt": _words,
    },
)
_scopes = st.builds(
    Scope,
    tenant=_words,
    deployment=_words,
    model_revision=_words,
    sensitivity=st.sampled_from(["", "public", "internal", "secret"]),
    output_cap=st.none() | st.integers(0, 3),
    epoch=st.integers(0, 3),
    secret=st.sampled_from([b"0" * 16, b"1" * 16, b"2" * 100]),
    adapter=_words,
)


@st.composite
def _chats(draw: st.DrawFn) -> tuple[Body, Any]:
    """A body, and what its last user says."""
    prefix = draw(st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "developer"]), "content": _said})))
    last = draw(_said)
    body: Body = {
        "model": draw(st.sampled_from(["a", "b"])),
        "messages": [*prefix[:1], *draw(_turns), {"role": "user", "content": last}],
        **draw(_settings),
    }
    if draw(st.booleans()):
        body["tools"] = draw(st.lists(_tool, max_size=2))
    return body, last


def read(body: Body, scope: Scope) -> Question:
    return read_question("chat", json.dumps(body).encode(), RULES, scope)


def without_last(body: Body) -> Body:
    """The body with as many empty parts in place of what its last user says."""
    last = body["messages"][-1]
    content = last["content"]
    hollow = None if isinstance(content, str) else [{"type": "text"} for _ in content]
    return {**body, "messages": [*body["messages"][:-1], {**last, "content": hollow}]}


def plain(value: Any) -> str:
    """A body's meaning in one spelling, by another encoder than the cache's."""
    return json.dumps(value, sort_keys=True)


SCOPE = Scope("tenant", "chat", "r1", "public", None, 0, b"s" * 16)


@settings(max_examples=150, deadline=None)
@given(_chats(), _chats(), _scopes, _scopes)
def test_only_calls_that_agree_in_everything_share_a_key_or_but_for_the_text_a_partition(
    one: tuple[Body, Any], other: tuple[Body, Any], scope: Scope, scope_2: Scope
) -> None:
    a, b = read(one[0], scope), read(other[0], scope_2)
    assume(not a.refused and not b.refused)
    same_scope = scope == scope_2
    assert (a.key == b.key) == (same_scope and plain(one[0]) == plain(other[0]))
    if a.partition and b.partition:
        agree = same_scope and plain(without_last(one[0])) == plain(without_last(other[0]))
        assert (a.partition == b.partition) == agree


CHANGES: list[tuple[str, Any]] = [
    ("model", "other"),
    ("temperature", 0.3),
    ("top_p", 0.9),
    ("seed", 7),
    ("max_tokens", 11),
    ("stop", ["x"]),
    ("tools", [{"type": "function", "function": {"name": "f"}}]),
    ("tool_choice", "none"),
    ("response_format", {"type": "json_object"}),
    ("logit_bias", {"1": 5}),
    ("frequency_penalty", 0.1),
    ("guided_json", {"type": "object"}),
    ("chat_template_kwargs", {"enable_thinking": False}),
    ("a_field_of_tomorrow", 1),
]


@pytest.mark.parametrize(("field", "value"), CHANGES)
@settings(max_examples=8, deadline=None)
@given(chat=_chats())
def test_a_field_more_or_of_another_value_is_another_partition(field: str, value: Any, chat: tuple[Body, Any]) -> None:
    body = chat[0]
    assume(plain(body.get(field)) != plain(value))
    a, b = read(body, SCOPE), read({**body, field: value}, SCOPE)
    assert a.key != b.key
    assert not a.partition or a.partition != b.partition


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "tenant-2"},
        {"deployment": "chat-2"},
        {"model_revision": "r2"},
        {"sensitivity": "secret"},
        {"output_cap": 100},
        {"output_cap": 0},
        {"epoch": 1},
        {"secret": b"t" * 16},
        {"secret": b"t" * 65},
        {"shared": True},
        {"adapter": "lora"},
        {"tenant": "ten", "deployment": "antchat"},
    ],
    ids=str,
)
@settings(max_examples=8, deadline=None)
@given(chat=_chats())
def test_another_scope_is_another_key_and_partition(other: dict[str, Any], chat: tuple[Body, Any]) -> None:
    a, b = read(chat[0], SCOPE), read(chat[0], msgspec.structs.replace(SCOPE, **other))
    assert a.key != b.key
    assert not a.partition or a.partition != b.partition


@settings(max_examples=100, deadline=None)
@given(_chats(), st.lists(_said, min_size=1, max_size=2), st.sampled_from(["user", "assistant", "system", "developer"]))
def test_another_earlier_turn_is_another_partition(chat: tuple[Body, Any], said: list[Any], role: str) -> None:
    body = chat[0]
    more = {**body, "messages": [*({"role": role, "content": one} for one in said), *body["messages"]]}
    a, b = read(body, SCOPE), read(more, SCOPE)
    assert a.key != b.key
    assert not a.partition or a.partition != b.partition


def _spell(value: Any, draw: st.DrawFn, top: bool = True) -> str:
    """JSON with keys in any order, spaces anywhere, escapes for any letter."""
    space = draw(st.sampled_from(["", " ", "\n\t"]))
    if isinstance(value, dict):
        names = draw(st.permutations(sorted(value)))
        inside = ",".join(f"{space}{_spell(n, draw)}{space}:{_spell(value[n], draw, False)}" for n in names)
        doubled = f'"stream": "first",{inside}' if top and "messages" in value else inside
        return "{" + doubled + space + "}"
    if isinstance(value, list):
        return "[" + ",".join(space + _spell(one, draw, False) for one in value) + space + "]"
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


@st.composite
def _spelled_twice(draw: st.DrawFn) -> tuple[str, str]:
    body = draw(_chats())[0]
    travel = st.fixed_dictionaries(
        {"stream": st.booleans()},
        optional={
            "stream_options": st.just({"include_usage": True}),
            "user": _words,
            "metadata": st.dictionaries(_words, _words, max_size=2),
            "store": st.booleans(),
            "safety_identifier": _words,
            "prompt_cache_key": _words,
            "service_tier": st.sampled_from(["auto", "flex"]),
            "n": st.none(),
            "tool_calls_of_nobody": st.none(),
        },
    )
    return _spell({**body, **draw(travel)}, draw), _spell({**body, **draw(travel)}, draw)


@settings(max_examples=150, deadline=None)
@given(_spelled_twice())
def test_spaces_the_order_of_keys_escapes_and_the_stream_mode_do_not_matter(bodies: tuple[str, str]) -> None:
    one, other = (read_question("chat", body.encode(), RULES, SCOPE) for body in bodies)
    assert one == other
    assert len(one.key) == 32


@pytest.mark.parametrize("spelling", ["1", "1.0", "1e0", "10E-1", "1.000"])
def test_a_number_that_steers_sampling_has_one_value_however_it_is_written(spelling: str) -> None:
    body = '{"messages": [{"role": "user", "content": "hi"}], "temperature": %s}'
    known = read_question("chat", (body % "1").encode(), RULES, SCOPE)
    assert read_question("chat", (body % spelling).encode(), RULES, SCOPE) == known
    assert read_question("chat", (body % "1.5").encode(), RULES, SCOPE).partition != known.partition


def test_numbers_in_tools_keep_their_spelling_because_templates_write_them_into_the_prompt() -> None:
    body = '{"messages": [{"role": "user", "content": "hi"}], "tools": [{"max": %s}]}'
    whole, broken = (read_question("chat", (body % at).encode(), RULES, SCOPE) for at in ("1", "1.0"))
    assert whole.partition != broken.partition


def test_sharing_tenants_have_one_key_and_the_secret_another() -> None:
    shared = msgspec.structs.replace(SCOPE, shared=True)
    body: Body = {"messages": [{"role": "user", "content": "hi"}]}
    assert read(body, shared) == read(body, msgspec.structs.replace(shared, tenant="another"))
    assert read(body, shared).key != read(body, msgspec.structs.replace(shared, secret=b"another secret .")).key


def test_nothing_of_the_prompt_or_the_tenant_can_be_read_from_keys() -> None:
    body: Body = {"messages": [{"role": "user", "content": "hi"}]}
    question = read(body, SCOPE)
    for part in (b"hi", b"tenant", b"chat", SCOPE.secret):
        assert part not in question.key + question.partition
    assert question.key != question.partition
