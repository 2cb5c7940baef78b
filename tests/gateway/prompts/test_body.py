"""Prompts without a tokenizer: what counts, what does not, and bodies that mean harm."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.base import Operation
from gateway.prompts.body import Prompt, read_prompt

_TEXTS = st.lists(st.text(max_size=40), min_size=1, max_size=5)
_SAMPLING = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "stream": st.booleans(),
        "max_tokens": st.integers(1, 10_000),
        "seed": st.integers(),
        "stop": st.lists(st.text(max_size=4)),
        "user": st.text(),
        "n": st.integers(1, 4),
        "logit_bias": st.dictionaries(st.text(), st.floats(-1, 1)),
    },
)


def prompt_of(body: object, operation: Operation = Operation.CHAT, session: bytes | None = None) -> Prompt:
    headers = {} if session is None else {b"x-session-id": session}
    prompt = read_prompt(operation, json.dumps(body).encode(), headers)
    assert prompt is not None
    return prompt


def messages(contents: list[str]) -> list[dict[str, str]]:
    return [{"role": "user" if at % 2 else "assistant", "content": text} for at, text in enumerate(contents)]


@given(_TEXTS, st.text(max_size=40), st.text(max_size=40))
def test_the_same_leading_messages_are_the_same_leading_bytes(shared: list[str], one: str, other: str) -> None:
    start = prompt_of({"messages": messages(shared)}).data
    for last in (one, other):
        assert prompt_of({"messages": messages([*shared, last])}).data.startswith(start)


@given(_TEXTS, _SAMPLING, _SAMPLING)
def test_how_an_answer_is_sampled_is_no_part_of_the_prompt(
    texts: list[str], one: dict[str, object], other: dict[str, object]
) -> None:
    first, second = ({"messages": messages(texts), **fields} for fields in (one, other))
    assert prompt_of(first).data == prompt_of(dict(reversed(second.items()))).data


@given(_TEXTS)
def test_how_the_json_is_written_is_no_part_of_the_prompt(texts: list[str]) -> None:
    body = {"messages": messages(texts)}
    forms = (json.dumps(body), json.dumps(body, ensure_ascii=False), json.dumps(body, indent=3))
    read = [read_prompt(Operation.CHAT, form.encode(), {}) for form in forms]
    assert read[0] is not None
    assert read[0] == read[1] == read[2]


@pytest.mark.parametrize(
    "changed",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"documents": [{"title": "t", "text": "x"}]},
        {"messages": [{"role": "system", "content": "hello"}]},
        {"messages": [{"role": "user", "content": "hello", "name": "bob"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello!"}]}]},
        {"messages": [{"role": "user", "content": "hello", "reasoning": "r"}]},
        {"messages": [{"role": "user", "content": "hello", "tool_calls": [{"id": "1"}]}]},
    ],
)
def test_what_an_engine_renders_is_part_of_the_prompt(changed: dict[str, object]) -> None:
    plain = {"messages": [{"role": "user", "content": "hello"}]}
    assert prompt_of({**plain, **changed}).data != prompt_of(plain).data


def test_tools_come_before_the_messages_as_templates_render_them() -> None:
    tools = [{"type": "function", "function": {"name": "f" * 300}}]
    one = prompt_of({"messages": messages(["a"]), "tools": tools}).data
    other = prompt_of({"tools": tools, "messages": messages(["b"])}).data
    assert one[:300] == other[:300]
    assert one != other


def test_an_image_counts_but_its_bytes_do_not() -> None:
    def image(data: str) -> dict[str, object]:
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}

    def body(data: str) -> dict[str, object]:
        parts = ["look", {"type": "input_text", "text": "at"}, image(data), {"type": "text"}, {"type": 3}]
        return {"messages": [{"role": "user", "content": parts}]}

    prompt = prompt_of(body("A" * 100_000))
    assert len(prompt.data) < 100
    assert prompt.media == 2
    assert prompt.data != prompt_of(body("B" * 100_000)).data
    assert prompt.data == prompt_of(body("A" * 100_000)).data


def test_a_completion_is_keyed_by_its_text() -> None:
    assert prompt_of({"prompt": "grüße"}, Operation.COMPLETIONS).data == "grüße".encode()
    assert prompt_of({"input": "grüße"}, Operation.EMBEDDINGS).data == "grüße".encode()


def test_token_ids_are_keys_material_as_they_are() -> None:
    prompt = prompt_of({"prompt": [1, 256]}, Operation.COMPLETIONS)
    assert (prompt.data, prompt.token_ids, prompt.id_count) == (b"\1\0\0\0\0\1\0\0", True, 2)


def test_of_several_prompts_the_first_has_the_keys_and_all_count() -> None:
    texts = prompt_of({"input": ["one", "three"]}, Operation.EMBEDDINGS)
    assert (texts.data, texts.text_bytes, texts.id_count) == (b"one", 8, 0)
    ids = prompt_of({"prompt": [[7], [8, 9]]}, Operation.COMPLETIONS)
    assert (ids.data, ids.token_ids, ids.id_count, ids.text_bytes) == (b"\7\0\0\0", True, 3, 0)


def test_an_embedding_may_be_of_a_chat() -> None:
    body = {"messages": messages(["a", "b"])}
    assert prompt_of(body, Operation.EMBEDDINGS).data == prompt_of(body).data


def test_the_session_is_named_by_header_then_cache_key_then_user() -> None:
    body: dict[str, object] = {"messages": []}
    assert prompt_of(body).session == ""
    assert prompt_of({**body, "user": "u"}).session == "u"
    assert prompt_of({**body, "user": "u", "prompt_cache_key": "k"}).session == "k"
    assert prompt_of({**body, "prompt_cache_key": "k"}, session=b"s").session == "s"
    assert len(prompt_of({**body, "user": "u" * 1000}).session) == 256


def test_the_newer_limit_of_an_answer_comes_first() -> None:
    assert prompt_of({"max_tokens": 5}).max_output_tokens == 5
    assert prompt_of({"max_tokens": 5, "max_completion_tokens": 7}).max_output_tokens == 7
    assert prompt_of({"max_tokens": None, "max_completion_tokens": 7}).max_output_tokens == 7
    odd_limits: tuple[object, ...] = (-1, 1.5, "3", 10**30, [], None)
    for odd in odd_limits:
        assert prompt_of({"max_tokens": odd}).max_output_tokens is None


def test_fields_of_a_wrong_type_that_do_not_matter_are_not_read() -> None:
    prompt = prompt_of({"messages": messages(["a"]), "user": 3, "cache_salt": {"a": 1}, "prompt_cache_key": [None]})
    assert (prompt.session, prompt.salt) == ("", b"")
    assert prompt_of({"messages": [], "cache_salt": "sält"}).salt == "sält".encode()


HOSTILE = {
    "nothing": b"",
    "no object": b"[1, 2]",
    "half": b'{"messages": [{"role": "user", "con',
    "deep": b'{"messages": [{"role": "user", "content": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
    "deep, unread": b'{"x": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "deep tools": b'{"messages": [], "tools": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "no utf-8": b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "half a surrogate": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "half a surrogate as salt": b'{"messages": [{"role": "user", "content": "a"}], "cache_salt": "\\udfff"}',
    "half a surrogate in a part": b'{"messages": [{"role": "u", "content": [{"type": "text", "text": "\\ud800"}]}]}',
    "messages that are none": b'{"messages": "hello"}',
    "messages of numbers": b'{"messages": [1, 2]}',
    "a role that is none": b'{"messages": [{"role": 1, "content": "a"}]}',
    "no role": b'{"messages": [{"content": "a"}]}',
    "content that is none": b'{"messages": [{"role": "user", "content": 5}]}',
    "parts that are none": b'{"messages": [{"role": "user", "content": [1, null]}]}',
    "an empty part": b'{"messages": [{"role": "user", "content": [{}]}]}',
    "a long number": b'{"messages": [], "max_tokens": ' + b"9" * 10_000 + b"}",
    "no prompt": b'{"model": "m"}',
    "an empty list": b'{"prompt": [], "input": []}',
    "mixed": b'{"prompt": [1, "a", [2]], "input": ["a", 1, [2]]}',
    "negative ids": b'{"prompt": [-1, 2], "input": [[-1]]}',
    "large ids": b'{"prompt": [4294967296], "input": [[18446744073709551616]]}',
    "tools that are none": b'{"messages": [{"role": "user", "content": "a"}], "tools": 5}',
    "tools without names": b'{"messages": [{"role": "user", "content": "a"}], "tools": [{"function": {"name": 3}}, 4]}',
    "calls that are none": b'{"messages": [{"role": "assistant", "content": "a", "tool_calls": {"a": 1}}]}',
    "a call of nothing": b'{"messages": [{"role": "assistant", "tool_calls": [{"type": "function"}]}]}',
    "a call of another kind": b'{"messages": [{"role": "assistant", "tool_calls": [{"type": "x", "function": {}}]}]}',
    "kwargs that shadow": b'{"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"tokenize": 1}}',
    "a template of its own": b'{"messages": [{"role": "user", "content": "a"}], "chat_template": "{{ 1/0 }}"}',
    "kwargs of odd types": b'{"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": 7}',
    "truncated": b'{"messages": [{"role": "user", "content": "a"}], "truncate_prompt_tokens": 1, "prompt": "a"}',
    "continue what": b'{"messages": [{"role": "user"}], "continue_final_message": true, '
    b'"add_generation_prompt": false}',
    "continue an image": b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}],'
    b' "continue_final_message": true, "add_generation_prompt": false}',
    "continue and generate": b'{"messages": [{"role": "user", "content": "a"}], "continue_final_message": true}',
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("operation", Operation)
def test_a_hostile_body_raises_nothing(name: str, operation: Operation) -> None:
    read_prompt(operation, HOSTILE[name], {})


def test_only_requests_with_a_prompt_have_one() -> None:
    assert read_prompt(Operation.TOKENIZE, b'{"prompt": "a"}', {}) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["messages", "role", "content", "prompt", "input", "type", "text"]), inner
            )
        ),
        max_leaves=30,
    )
)
def test_any_json_raises_nothing(body: object) -> None:
    raw = json.dumps(body).encode("utf-8", "surrogatepass")
    for operation in Operation:
        read_prompt(operation, raw, {})
