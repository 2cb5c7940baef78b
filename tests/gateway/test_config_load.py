"""Reading a configuration: what is taken, what is refused, and how that is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Config
from gateway.config.load import load, load_config, override, parse_config
from gateway.config.problems import MASK, ConfigError, Problem

SMALL = """\
pools:
  a:
    urls: [http://10.0.0.1:8000]
deployments:
  m:
    variants:
      v: {pools: [a]}
"""


def problems(text: str, **env: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml", env)
    return caught.value.problems


def only(text: str, **env: str) -> Problem:
    found = problems(text, **env)
    assert len(found) == 1, [str(one) for one in found]
    return found[0]


def test_a_small_file_gets_every_default() -> None:
    config = parse_config(SMALL)
    assert config.server.port == 8080
    assert config.deployments["m"].attempts == 3
    assert config.pools["a"].urls == ["http://10.0.0.1:8000"]


def test_an_empty_file_is_all_defaults() -> None:
    assert parse_config("", env={}) == Config()


def test_a_base_url_may_end_in_its_version() -> None:
    config = parse_config(SMALL.replace("8000]", "8000/v1/]"))
    assert config.pools["a"].urls == ["http://10.0.0.1:8000"]


def test_a_problem_names_file_line_column_key_value_limit_and_what_is_right() -> None:
    found = only("server:\n  host: 127.0.0.1\n  port: 99999\n")
    assert str(found) == "c.yaml:3:9: server.port: 99999 is out of range (it takes at most 65,535)"
    assert found.as_dict() == {
        "severity": "error",
        "file": "c.yaml",
        "line": 3,
        "column": 9,
        "key": "server.port",
        "value": "99999",
        "message": "99999 is out of range",
        "hint": "it takes at most 65,535",
    }


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    found = problems("server: {port: -1, workers: 999}\ncache: {ttl_s: 0}\npools: {a: {}}\n")
    assert [one.key for one in found] == ["server.port", "server.workers", "cache.ttl_s"]


def test_an_unknown_key_is_refused_with_a_suggestion() -> None:
    found = only("server:\n  prot: 80\n")
    assert (found.line, found.column, found.key) == (2, 3, "server.prot")
    assert found.hint == 'did you mean "port"?'


def test_an_unknown_key_like_none_that_exists_lists_those_that_do() -> None:
    known = "admin, auth, cache, content_log, database, deployments, limits, pools, prices, redis, residency, routing"
    assert only("zzz: 1\n").hint == f"there is: {known}, …"


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("server: {port: a}", "server.port", '"a" is not a whole number'),
        ("server: {port: true}", "server.port", "true is not a whole number"),
        ("server: {port: 1.5}", "server.port", "1.5 is not a whole number"),
        ("server: {drain_s: soon}", "server.drain_s", '"soon" is not a number'),
        ("server: {drain_s: .inf}", "server.drain_s", "inf is not a finite number"),
        ("cache: {enabled: 1}", "cache.enabled", "1 is not true or false"),
        ("cache: {enabled: yes}", "cache.enabled", '"yes" is not true or false'),
        ("server: {host: 1}", "server.host", "1 is not a string (put it in quotes)"),
        ("server: {host: [a]}", "server.host", "a list is not a string"),
        ("server: {cors_origins: http://a}", "server.cors_origins", "write `cors_origins: [ … ]`"),
        ("server: {cors_origins: {a: b}}", "server.cors_origins", "a mapping is not a list"),
        ("pools:", "pools", "there is no value (it takes a mapping; without one, leave the key out)"),
        ("server: [1]", "server", "a list is not a mapping"),
        ("pools: {a: {urls: [ftp://x]}}", "pools.a.urls[0]", "not an http:// or https:// URL"),
        ("pools: {a b: {urls: [http://x]}}", 'pools."a b"', '"a b" is not a name'),
        ("pools: {a: {engine: {kind: vlm}}}", "pools.a.engine.kind", 'did you mean "vllm"?'),
        ("pools: {a: {engine: {kind: xyz}}}", "pools.a.engine.kind", "it takes openai, vllm, llamacpp, "),
        ("deployments: {m: {variants: {}}}", "deployments.m.variants", "it needs at least 1"),
        ("deployments: {m: {}}", "deployments.m", 'the key "variants" is missing (add `variants: …` here)'),
        ("auth: {keys: [{name: '', key: x}]}", "auth.keys[0].name", '"" is too short'),
        ("auth: {keys: [{name: a, hash: sha256:12}]}", "auth.keys[0].hash", "is not a key hash"),
        ("- a", "", "a list is not a mapping"),
        ("telemetry: {tracing: {sample: 2}}", "telemetry.tracing.sample", "it takes at most 1"),
    ],
)
def test_a_wrong_value_is_told_in_words(text: str, key: str, said: str) -> None:
    found = only(text)
    assert found.key == key
    assert said in str(found)


def test_words_that_older_yaml_took_for_booleans_are_words() -> None:
    assert parse_config("telemetry: {access_log: {format: off}}").telemetry.access_log.format == "off"


def test_a_key_that_stands_twice_is_refused_and_both_places_are_named() -> None:
    found = only("server:\n  port: 1\n  port: 2\n")
    assert (found.line, found.message, found.hint) == (3, 'the key "port" stands twice', "first in line 2; keep one")


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: [1, 2", 1), ("a: 1\nb:\n\t- 1", 3), ("a: b: c", 1), ('a: "b', 1), ("a: *nowhere", 1), ("a: 1\n---\nb: 2", 2)],
)
def test_text_that_is_not_yaml_is_told_with_its_line(text: str, line: int) -> None:
    found = only(text)
    assert "not valid YAML" in found.message
    assert abs(found.line - line) <= 1


def test_a_control_character_is_told_with_its_line() -> None:
    assert only("a: 1\nb: \x07\n").line == 2


def test_a_variable_in_braces_is_told_to_need_quotes() -> None:
    assert only("server: {port: ${PORT}}").hint == "between { and } a ${VAR} needs quotes"


# Variables


def test_variables_are_typed_after_substitution() -> None:
    text = (
        "server: \n  port: ${PORT}\n  workers: os.environ/WORKERS\n  drain_s: ${DRAIN:-2.5}\ncache:\n  enabled: ${ON}\n"
    )
    config = parse_config(text, env={"PORT": "9000", "WORKERS": "2", "ON": "true"})
    assert (config.server.port, config.server.workers, config.server.drain_s) == (9000, 2, 2.5)
    assert config.cache.enabled is True


@pytest.mark.parametrize(
    ("written", "got"),
    [
        ("${A}", "alpha"),
        ("x-${A}-${B}-y", "x-alpha-beta-y"),
        ("${EMPTY:-d}", "d"),
        ("${NOPE:-}", ""),
        ("${NOPE:-${A}}", "alpha"),
        ("$${A}", "${A}"),
        ("$A", "$A"),
        ("os.environ/A", "alpha"),
        ("see os.environ/A", "see os.environ/A"),
        ("${NUMBER}", "12"),
    ],
)
def test_a_text_with_variables(written: str, got: str) -> None:
    env = {"A": "alpha", "B": "beta", "EMPTY": "", "NUMBER": "12"}
    assert parse_config(f"server: {{host: localhost, cors_origins: ['{written}']}}", env=env).server.cors_origins == [
        got
    ]


def test_a_variable_that_is_not_set_is_named() -> None:
    found = only("server:\n  port: ${PORT}\n")
    assert str(found) == (
        "c.yaml:2:9: server.port: the environment variable PORT is not set (export PORT, or give a default: ${PORT:-…})"
    )


@pytest.mark.parametrize("written", ["${", "${1A}", "${A", "${A-b}", "${A:?b}"])
def test_a_broken_variable_is_refused(written: str) -> None:
    assert "is not a variable" in only(f"server: {{host: '{written}'}}", A="127.0.0.1").message


def test_a_variable_of_the_wrong_type_is_told_with_its_name() -> None:
    assert '"abc" (from ${PORT}) is not a whole number' in only("server:\n  port: ${PORT}", PORT="abc").message


def test_an_empty_variable_leaves_an_optional_key_out() -> None:
    text = SMALL.replace("    urls", "    max_in_flight: ${MAX:-}\n    engine: {api_key: '${KEY:-}'}\n    urls")
    pool = parse_config(text, env={}).pools["a"]
    assert pool.max_in_flight is None
    assert pool.engine.api_key is None


@pytest.mark.parametrize("value", ["nan", "inf", "x"])
def test_a_number_from_a_variable_is_finite(value: str) -> None:
    assert only("server:\n  drain_s: ${D}", D=value).key == "server.drain_s"


# Anchors


def test_anchors_and_merges_are_followed_and_own_keys_win() -> None:
    text = (
        "pools:\n  a: &base\n    urls: [http://x:1]\n    max_in_flight: 3\n    site: cloud\n"
        "  b:\n    <<: *base\n    urls: [http://x:2]\n  c:\n    <<: [{site: on-premise}, *base]\n"
    )
    pools = parse_config(text).pools
    assert (pools["b"].urls, pools["b"].max_in_flight) == (["http://x:2"], 3)
    assert (pools["c"].site, pools["c"].max_in_flight) == ("on-premise", 3)


def test_a_problem_in_an_anchor_is_told_once() -> None:
    assert only("pools:\n  a: &x {urls: [http://x], site: moon}\n  b: *x\n").line == 2


def test_an_anchor_that_holds_itself_is_refused() -> None:
    assert any("holds itself" in one.message for one in problems("server: &a\n  cors_origins: [*a]\n"))
    assert any("into itself" in one.message for one in problems("server: &a\n  <<: *a\n"))


def test_a_merge_of_something_else_is_refused() -> None:
    assert "merges something" in problems("server:\n  <<: 1\n")[0].message


def test_anchors_that_multiply_are_stopped() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert any("expand to more than" in one.message for one in problems("\n".join(lines)))


def test_very_deep_nesting_is_refused_not_a_crash() -> None:
    assert "not valid YAML" in only("a: " + "[" * 20_000).message


@pytest.mark.parametrize("text", ["a: !!python/object:os.system x", "server: {port: !!int x}", "a: !mine x"])
def test_tags_are_refused(text: str) -> None:
    assert any("tag" in one.message for one in problems(text))


def test_a_key_that_is_a_list_is_refused() -> None:
    assert any("keys are plain words" in one.hint for one in problems("? [a]\n: 1\n"))


def test_a_null_a_hexadecimal_and_a_plain_number_are_read_as_yaml_12_says() -> None:
    config = parse_config("server: {port: 0x1F90, workers: 010, tls: ~, drain_s: 1e1}")
    assert (config.server.port, config.server.workers, config.server.tls, config.server.drain_s) == (
        8080,
        10,
        None,
        10.0,
    )


# Files


def test_a_file_is_loaded_with_its_warnings(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("\ufeff" + SMALL + "# end\n", encoding="utf-8")
    loaded = load(file, {})
    assert loaded.source == file
    assert loaded.warnings == ()
    assert load_config(str(file)) == loaded.config


def test_a_file_that_is_not_there_is_told_without_a_trace(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        load_config(tmp_path / "none.yaml")


def test_a_file_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 3"):
        load_config(file)


# Overrides


def test_an_override_replaces_values_and_keeps_the_rest() -> None:
    config = parse_config(SMALL.replace("urls:", "engine: {api_key: sk-planted}\n    urls:"))
    changed = override(config, {("server", "port"): 1, ("telemetry", "access_log", "format"): "off"})
    assert (changed.server.port, changed.telemetry.access_log.format) == (1, "off")
    key = changed.pools["a"].engine.api_key
    assert key is not None
    assert key.get_secret_value() == "sk-planted"
    assert changed.deployments == config.deployments


def test_an_override_may_fill_a_section_that_was_none(tmp_path: Path) -> None:
    file = tmp_path / "pem"
    file.touch()
    config = parse_config("server: {tls: ~}")
    changed = override(config, {("server", "tls", "cert"): str(file), ("server", "tls", "key"): str(file)})
    assert changed.server.tls is not None


def test_an_override_is_checked_like_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        override(Config(), {("server", "host"): "0.0.0.0"})
    assert str(caught.value).startswith('command line: server.host: "0.0.0.0" is reachable from other machines')
    with pytest.raises(ConfigError, match=r"server\.port: -1 is out of range"):
        override(Config(), {("server", "port"): -1})


# Secrets (A25)

PLANTED = "planted-secret-value"


@pytest.mark.parametrize(
    "text",
    [
        f"auth: {{keys: [{{name: a, key: {PLANTED}, max_parallel: 0}}]}}",
        f"auth: {{keys: [{{name: a, kay: {PLANTED}}}]}}",
        f"auth: {{keys: [{{name: a, hash: {PLANTED}}}]}}",
        f"auth: {{keys: [{PLANTED}]}}",
        f"auth: {PLANTED}",
        f"auth: {{salt: [{PLANTED}]}}",
        f"auth: {{salt: {{a: {PLANTED}}}}}",
        f"pools: {{a: {{engine: {{headers: {{x: {PLANTED}}}, kind: no}}}}}}",
        f"pools: {{a: {{engine: {{api_key: {PLANTED}, slots: 0}}}}}}",
        f'auth: {{salt: "{PLANTED}',
        f"auth:\n  salt: {PLANTED}: {PLANTED}\n",
        f"unknown: {{deep: [1, {PLANTED}]}}",
        f"server: {{port: 'sk-{PLANTED}'}}",
        f"pools: {{a: {{urls: ['http://user:{PLANTED}@host?x']}}}}",
        f"auth:\n  salt: |\n    {PLANTED}\n  keys: 3\n",
        f"auth: {{keys: [{{name: a, key: {PLANTED}}}, {{name: a, key: {PLANTED}}}]}}",
        f"server: {{port: '${{HOST_TOKEN}}'}} # sk-{PLANTED}",
    ],
)
def test_a25_a_secret_is_in_no_message_and_no_excerpt(text: str) -> None:
    for one in problems(text, HOST_TOKEN=PLANTED):
        assert PLANTED not in f"{one} {one!r} {one.excerpt} {one.as_dict()}"


def test_a25_a_secret_is_in_no_repr() -> None:
    config = parse_config(f"auth: {{salt: {PLANTED}, keys: [{{name: a, key: {PLANTED}}}]}}")
    assert PLANTED not in f"{config!r} {config}"


def test_an_excerpt_marks_the_place_beside_a_masked_secret() -> None:
    found = only("auth: {keys: [{name: a, key: a-rather-long-secret, max_parallel: 0}]}")
    assert found.excerpt is not None
    text, caret = str(found.excerpt).split("\n")
    assert text == f"auth: {{keys: [{{name: a, key: {MASK}, max_parallel: 0}}]}}"
    assert text[caret.index("^")] == "0"
    assert caret.count("^") == 1


def test_an_excerpt_marks_a_masked_secret_itself() -> None:
    found = only("auth: {keys: [{name: a, key: 123456, deployments: ['*']}]}")
    assert found.excerpt is not None
    text, caret = str(found.excerpt).split("\n")
    assert text[caret.index("^") : caret.rindex("^") + 1] == MASK


def test_a_reference_to_a_variable_is_shown_as_it_is() -> None:
    found = only("auth:\n  keys: [{name: a, key: '${K}', max_parallel: 0}]", K="x")
    assert found.excerpt is not None
    assert "'${K}'" in found.excerpt.text


def test_a_long_value_is_cut_short() -> None:
    assert len(only(f"server: {{port: {'a' * 500}}}").message) < 100


def test_a_variable_that_is_not_set_is_one_problem_and_not_two() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config("auth: {keys: [{name: a, key: '${NOT_SET}'}]}\n", env={})
    assert [problem.key for problem in raised.value.problems] == ["auth.keys[0].key"]
