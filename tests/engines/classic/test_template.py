"""Templates make prompts and requests, in a sandbox; bad ones say where they are wrong."""

from __future__ import annotations

from typing import Any

import pytest

from engines.adapter import CannotSay
from engines.classic.template import CHAT_ML, BadTemplate, JsonTemplate, TextTemplate, environment

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <b> {{ 7 }}"}]


def text(source: str, **names: object) -> str:
    return TextTemplate(environment(), source, ("prompt",)).render(names)


def filled(value: object, **names: object) -> Any:
    return JsonTemplate(environment(), value, ("request",)).render(names)


def test_chat_ml_is_written_with_every_message_and_the_assistants_turn() -> None:
    assert text(CHAT_ML, messages=MESSAGES) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <b> {{ 7 }}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_from_hugging_face_has_what_it_expects() -> None:
    source = (
        "{{ bos_token }}{%- for m in messages %}\n"
        "    {%- if m.role == 'system' %}{%- continue %}{%- endif %}\n"
        "[{{ m.content | trim | tojson }}]\n"
        "{%- endfor %}\n"
        "{% if add_generation_prompt %}>{% endif %}"
    )
    assert text(source, messages=MESSAGES) == '["Hi <b> {{ 7 }}"]>'
    assert len(text("{{ strftime_now('%Y') }}")) == 4


def test_what_a_template_refuses_is_the_callers_to_mend() -> None:
    with pytest.raises(CannotSay, match=r"^no system messages$") as caught:
        text("{{ raise_exception('no system messages') }}", messages=[])
    assert caught.value.code == "invalid_value"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content.missing.more }}",
    ],
)
def test_the_sandbox_holds_and_a_failure_is_told(source: str) -> None:
    with pytest.raises(CannotSay, match="cannot be filled"):
        text(source, messages=MESSAGES)


def test_a_lone_placeholder_keeps_its_type() -> None:
    request = {
        "n": "{{ max_tokens }}",
        "t": " {{ temperature }} ",
        "s": "{{ stop }}",
        "b": "{{ stream }}",
        "body": "{{ body }}",
        "half": "{{ max_tokens // 2 }}",
        "mixed": "{{ max_tokens }} and {{ temperature }}",
        "map": "{{ {'a': {'b': 1}} }}",
        "constant": 3,
        "none": None,
        "list": ["{{ prompt }}", 1.5, {"deep": "{{ prompt }}"}],
    }
    assert filled(request, max_tokens=7, temperature=0.5, stop=["a"], stream=False, body={"x": 1}, prompt="P") == {
        "n": 7,
        "t": 0.5,
        "s": ["a"],
        "b": False,
        "body": {"x": 1},
        "half": 3,
        "mixed": "7 and 0.5",
        "map": {"a": {"b": 1}},
        "constant": 3,
        "none": None,
        "list": ["P", 1.5, {"deep": "P"}],
    }


def test_a_key_whose_value_the_caller_did_not_set_is_left_out() -> None:
    assert filled({"p": {"t": "{{ temperature }}", "k": "{{ body.k }}"}, "q": "{{ top_p or 1 }}"}, body={}) == {
        "p": {},
        "q": 1,
    }


def test_a_callers_text_is_never_a_template() -> None:
    assert filled({"a": "{{ prompt }}", "b": "<{{ prompt }}>"}, prompt="{{ 7 * 7 }}") == {
        "a": "{{ 7 * 7 }}",
        "b": "<{{ 7 * 7 }}>",
    }


@pytest.mark.parametrize(
    ("value", "place", "said"),
    [
        ({"a": ["{{ prompt"]}, ("request", "a", 0), "no Jinja template"),
        ({"a": {"b": "{{ prompt | nofilter }}"}}, ("request", "a", "b"), "No filter named 'nofilter'"),
        ({"a": "{% if prompt %}"}, ("request", "a"), "no Jinja template"),
        ({"a": "{{ heat }}"}, ("request", "a"), 'no "heat"'),
    ],
)
def test_a_bad_template_says_where_it_is(value: object, place: tuple[str | int, ...], said: str) -> None:
    with pytest.raises(BadTemplate, match=said) as caught:
        filled(value)
    assert caught.value.place == place
    assert caught.value.unknown in ("", "heat")
