"""Templates are checked with the rest of the configuration, and what is wrong is found at its line."""

from __future__ import annotations

import pytest

from gateway.config.load import parse_config
from gateway.config.problems import ConfigError, Problem

HEAD = "pools:\n  p:\n    urls: [http://a]\n    engine:\n      kind: {kind}\n      template:\n"
TAIL = "deployments: {m: {variants: {v: {pools: [p]}}}}\n"


def problems(template: str, kind: str = "kserve") -> list[Problem]:
    lines = "".join(f"        {line}\n" for line in template.splitlines())
    with pytest.raises(ConfigError) as caught:
        parse_config(HEAD.replace("{kind}", kind) + lines + TAIL, "c.yaml", {})
    return caught.value.problems


@pytest.mark.parametrize(
    ("template", "line", "key", "said"),
    [
        ('prompt: "{{ message }}"', 7, "prompt", 'a request has no "message" (did you mean "messages"?; other'),
        ('prompt: "{% for m in messages %}"', 7, "prompt", "it is no Jinja template"),
        (
            'request:\n  inputs:\n    - data: ["{{ prompt }}", "{{ top_ k }}"]',
            9,
            "request.inputs[0].data[1]",
            "it is no Jinja template",
        ),
        ('request: {k: "{{ quux }}"}', 7, "request.k", "other fields of a request are `body.NAME`"),
        ("answer: $.outputs", 7, "answer", '"$.outputs" is no path'),
        ("path: v2/infer", 7, "path", 'a path begins with "/"'),
        ("stream_answer: a..b", 7, "stream_answer", '"a..b" is no path'),
        ("embeddings: {answer: 'x[0]'}", 7, "embeddings.answer", '"x[0]" is no path'),
    ],
)
def test_a_bad_template_is_found_at_its_line(template: str, line: int, key: str, said: str) -> None:
    (problem,) = problems(template)
    assert (problem.line, problem.key) == (line, f"pools.p.engine.template.{key}")
    assert said in str(problem)


def test_a_template_for_a_server_that_takes_none_is_refused() -> None:
    (problem,) = problems("answer: text", kind="vllm")
    assert "`template` is for classic model servers, and this is vllm" in str(problem)


def test_a_good_template_is_taken() -> None:
    text = HEAD.replace("{kind}", "tfserving") + '        request: {inputs: {text: ["{{ prompt }}"]}}\n' + TAIL
    assert parse_config(text, "c.yaml", {}).pools["p"].engine.template.request is not None
