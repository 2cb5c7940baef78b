"""Whatever the text: a configuration, or a ConfigError. Never another exception, never a secret in it."""

from __future__ import annotations

import contextlib

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Config
from gateway.config.load import parse_config
from gateway.config.problems import ConfigError
from gateway.litellm.convert import convert

PLANTED = "plantedsecret"
ENV = {"A": "1", "B_KEY": PLANTED, "C": "http://c/v1"}

words = st.sampled_from(
    [
        "",
        "a",
        "m",
        "0",
        "-1",
        "1e400",
        "true",
        "null",
        "http://a/v1",
        "${A}",
        "${B_KEY}",
        "${NO}",
        "${",
        "*",
        "é",
        "a b",
        "vllm",
    ]
)
scalars = st.one_of(words, st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=8))
known = st.sampled_from(
    sorted(
        {
            *Config.model_fields,
            *(name for info in Config.model_fields.values() for name in getattr(info.annotation, "model_fields", {})),
            *("urls", "engine", "kind", "replicas", "variants", "pools", "weight", "aliases", "timeouts", "total_s"),
            *("keys", "name", "hash", "deployments", "<<"),
        }
    )
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(known | words, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:{}[]&*!|>'\"#-?,% \t\n$<~0é\x00\ufeff"), max_size=60))
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_config(text, env=ENV)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(known, trees, max_size=5))
def test_any_tree_is_a_configuration_or_problems_with_places(tree: dict[str, object]) -> None:
    try:
        parse_config(yaml.safe_dump(tree, allow_unicode=True), env=ENV)
    except ConfigError as error:
        assert error.problems
        assert all(one.line >= 1 and one.column >= 1 and one.severity == "error" for one in error.problems)
        assert (
            PLANTED
            not in f"{error}{[one.as_dict() for one in error.problems]}{[one.excerpt for one in error.problems]}"
        )


params = st.fixed_dictionaries(
    {
        "model": st.sampled_from(
            ["openai/a", "hosted_vllm/b b", "gpt-4o", "ollama/c:8b", "azure/d", "x/y", "groq/e", ""]
        )
    },
    optional={
        "api_base": st.sampled_from(
            ["http://a/v1", "http://a", "http://b/v1/", "os.environ/C", "https://x.org/v4", "?"]
        ),
        "api_key": st.sampled_from(["os.environ/A", "sk-${x}", "none", 12]),
        "weight": st.sampled_from([0, 1, 2.5, -3, "x"]),
        "timeout": st.sampled_from([0, 0.1, 30, -1, "os.environ/A", float("inf")]),
        "stream_timeout": st.sampled_from([0, 5, 900]),
        "num_retries": st.sampled_from([0, 3, 50, -2, 1.5, True]),
        "max_parallel_requests": st.sampled_from([0, 3, True]),
        "extra_headers": st.sampled_from([{"a": 1}, {}, 3]),
        "rpm": st.integers(),
    },
)
models = st.lists(
    st.fixed_dictionaries(
        {"model_name": st.sampled_from(["m", "n", "gpt-4o", "a b", "*", 3]), "litellm_params": params}
    ),
    max_size=6,
)
settings_of = st.fixed_dictionaries(
    {},
    optional={
        "router_settings": st.fixed_dictionaries(
            {},
            optional={
                "model_group_alias": st.dictionaries(
                    st.sampled_from(["m", "x", "y z", ""]),
                    st.sampled_from(["m", "n", {"model": "m", "hidden": True}, 3]),
                ),
                "num_retries": st.sampled_from([0, 99, "x", -1]),
                "timeout": st.sampled_from([0, 1, 9000, float("nan")]),
                "routing_strategy": st.sampled_from(["simple-shuffle", "least-busy", "other", 3]),
            },
        ),
        "litellm_settings": st.sampled_from([{}, {"cache": True}, {"cache": True, "cache_params": {"ttl": 0}}, [1]]),
        "general_settings": st.sampled_from(
            [{}, {"master_key": "sk-a"}, {"master_key": 5, "max_request_size_mb": 1e-9}]
        ),
    },
)


@settings(max_examples=400, deadline=None)
@given(models, settings_of)
def test_whatever_is_imported_from_litellm_passes_the_check(entries: list[object], rest: dict[str, object]) -> None:
    result = convert(yaml.safe_dump({"model_list": entries, **rest}))
    env = {**ENV, "OPENAI_API_KEY": "o", "GROQ_API_KEY": "g"}
    assert len(parse_config(result.yaml, env=env).deployments) == result.deployments
