"""From a LiteLLM configuration to ours: what is carried, and that nothing is lost in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gateway.config import Config
from gateway.config.load import parse_config
from gateway.config.problems import ConfigError
from gateway.config.sites import site_of
from gateway.litellm.convert import Imported, convert, convert_file
from gateway.litellm.providers import split_model

FOLDER = Path(__file__).parent / "litellm"
ENV = {
    "GROQ_API_KEY": "g",
    "LITELLM_MASTER_KEY": "m",
    "LOCAL_BASE": "http://local:1/v1",
    "LOCAL_KEY": "l",
    "OPENAI_API_KEY": "o",
}


def imported(name: str) -> tuple[Imported, Config]:
    result = convert_file(FOLDER / name)
    return result, parse_config(result.yaml, name, ENV)


def notes(result: Imported) -> dict[str, str]:
    return {note.key: f"{note.kind} {note.line}: {note.reason}" for note in result.notes}


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.name)
def test_every_import_passes_the_check_and_every_note_names_a_line(file: Path) -> None:
    result = convert_file(file)
    parse_config(result.yaml, file.name, ENV)
    lines = file.read_text().splitlines()
    for note in result.notes:
        word = note.key.rsplit(".", 1)[-1].split("[")[0]
        assert word in lines[note.line - 1] or word in ("litellm_params", "model_list"), note


def every_key(value: object, path: str = "") -> set[str]:
    if isinstance(value, dict):
        return {part for key, child in value.items() for part in {f"{path}.{key}", *every_key(child, f"{path}.{key}")}}
    return set()


def test_nothing_is_left_behind_in_silence() -> None:
    carried = {
        "router_settings": {"routing_strategy", "num_retries", "timeout", "model_group_alias"},
        "litellm_settings": {"cache_params", "cache", "request_timeout", "num_retries"},
        "general_settings": {"master_key", "max_request_size_mb"},
    }
    for name in ("onprem.yaml", "mixed.yaml"):
        result, _ = imported(name)
        told = notes(result)
        source = yaml.safe_load((FOLDER / name).read_text())
        for section, known in carried.items():
            for key in source[section].keys() - known:
                assert f"{section}.{key}" in told


def test_entries_of_one_name_and_model_become_replicas_of_one_pool() -> None:
    _, config = imported("onprem.yaml")
    deployment = config.deployments["llama-3-70b"]
    full = deployment.variants["meta-llama/Meta-Llama-3-70B-Instruct"]
    assert config.pools[full.pools[0]].urls == ["http://10.0.0.11:8000", "http://10.0.0.12:8000"]
    assert config.pools[full.pools[0]].engine.kind == "vllm"
    assert config.pools[full.pools[0]].site == "on-premise"


def test_other_models_of_the_same_name_become_variants_with_their_weight() -> None:
    _, config = imported("onprem.yaml")
    variants = config.deployments["llama-3-70b"].variants
    assert {variant.model: variant.weight for variant in variants.values()} == {
        "meta-llama/Meta-Llama-3-70B-Instruct": 2.0,
        "neuralmagic/Meta-Llama-3-70B-Instruct-FP8": 2.0,
    }


def test_times_retries_policy_and_aliases_are_carried() -> None:
    result, config = imported("onprem.yaml")
    deployment = config.deployments["llama-3-70b"]
    assert (deployment.timeouts.ttft_s, deployment.timeouts.total_s) == (30, 300)
    assert deployment.attempts == 3
    assert deployment.policy == "least_requests"
    assert deployment.aliases == ["gpt-4", "GPT-4"]
    assert notes(result)["model_list[0].litellm_params.timeout"].startswith(
        "changed 8: entries of one deployment share"
    )


@pytest.mark.parametrize(
    ("strategy", "policy", "told"),
    [
        ("simple-shuffle", "random", False),
        ("least-busy", "least_requests", False),
        ("latency-based-routing", "marginal_latency", False),
        ("cost-based-routing", "least_requests", True),
    ],
)
def test_a_routing_strategy_becomes_the_policy_that_is_like_it(
    tmp_path: Path, strategy: str, policy: str, told: bool
) -> None:
    file = tmp_path / "litellm.yaml"
    models = "model_list: [{model_name: m, litellm_params: {model: openai/m, api_base: 'http://gpu:1'}}]"
    file.write_text(f"{models}\nrouter_settings: {{routing_strategy: {strategy}}}\n")
    result = convert_file(file)
    assert parse_config(result.yaml, file.name, ENV).deployments["m"].policy == policy
    assert ("router_settings.routing_strategy" in notes(result)) == told


def test_ollama_is_called_at_its_openai_path() -> None:
    _, config = imported("onprem.yaml")
    assert config.pools["mistral-7b"].urls == ["http://localhost:11434"]
    assert config.deployments["mistral-7b"].variants["default"].model == "mistral"


def test_the_master_key_becomes_a_key_and_opens_the_port() -> None:
    _, config = imported("onprem.yaml")
    assert (config.server.host, config.server.port) == ("0.0.0.0", 4000)
    assert config.auth.keys[0].key is not None
    assert config.auth.keys[0].key.get_secret_value() == "m"


def test_without_a_master_key_the_gateway_stays_on_this_machine() -> None:
    _, config = imported("minimal.yaml")
    assert (config.server.host, config.auth.keys) == ("127.0.0.1", [])


def test_limits_and_a_redis_cache_are_told_as_lost() -> None:
    told = notes(imported("onprem.yaml")[0])
    assert told["model_list[0].litellm_params.rpm"].startswith("lost 7: request and token limits are not carried")
    assert 'type "redis"' in told["litellm_settings.cache"]


def test_variables_stay_variables_and_literal_secrets_are_carried_with_a_warning() -> None:
    result, config = imported("mixed.yaml")
    assert "${OPENAI_API_KEY}" in result.yaml
    assert "os.environ" not in result.yaml
    pool = config.pools[config.deployments["gpt-4o-mini"].variants["default"].pools[0]]
    assert pool.engine.api_key is not None
    assert pool.engine.api_key.get_secret_value() == "sk-planted-literal-secret"
    assert notes(result)["model_list[2].litellm_params.api_key"].startswith("warning 19:")


def test_a25_no_note_repeats_a_secret() -> None:
    for name in ("onprem.yaml", "mixed.yaml", "minimal.yaml"):
        result, _ = imported(name)
        text = f"{[str(note) for note in result.notes]} {result.as_dict()}"
        for secret in ("planted", "hunter2hunter2", "sk-1234"):
            assert secret not in text


def test_providers_with_protocols_of_their_own_are_told_as_lost() -> None:
    result, config = imported("mixed.yaml")
    assert set(config.deployments) == {"gpt-4o", "gpt-4o-mini", "fast", "local"}
    told = notes(result)
    for index in (0, 3, 4, 5):
        assert told[f"model_list[{index}].litellm_params.model"].startswith("lost")
    assert "wildcards" in told["model_list[9].litellm_params.model"]
    assert "ends in /v4" in told["model_list[7].litellm_params.api_base"]


def test_openai_by_a_bare_model_name_with_headers() -> None:
    _, config = imported("mixed.yaml")
    pool = config.pools["openai"]
    assert (pool.urls, pool.site) == (["https://api.openai.com"], "cloud")
    assert {name: value.get_secret_value() for name, value in pool.engine.headers.items()} == {
        "x-team": "search",
        "OpenAI-Organization": "org-ikDc4ex8NB",
    }
    assert config.deployments["gpt-4o"].variants["default"].model is None


def test_credentials_by_name_and_a_base_from_the_environment() -> None:
    result, config = imported("mixed.yaml")
    pool = config.pools["local"]
    assert (pool.urls, pool.site, pool.max_in_flight) == (["http://local:1"], "cloud", 16)
    assert pool.engine.api_key is not None
    assert pool.engine.api_key.get_secret_value() == "l"
    assert notes(result)["model_list[8].litellm_params.api_base"].startswith("warning")


def test_a_cache_in_memory_and_a_body_limit_are_carried() -> None:
    _, config = imported("mixed.yaml")
    assert (config.cache.enabled, config.cache.ttl_s) == (True, 120)
    assert config.server.max_body_bytes == 8 * 1024 * 1024


def test_more_retries_than_we_take_are_cut_and_told() -> None:
    result, config = imported("mixed.yaml")
    assert config.deployments["fast"].attempts == 10
    assert notes(result)["litellm_settings.num_retries"].startswith("changed 64: 20 retries were cut to 9")


def test_aliases_that_cannot_be_are_told() -> None:
    told = notes(imported("mixed.yaml")[0])
    assert "was not carried" in told["router_settings.model_group_alias.sonnet"]
    assert "a deployment has that name" in told["router_settings.model_group_alias.fast"]


def test_one_pool_serves_all_deployments_that_call_the_same_place() -> None:
    _, config = imported("minimal.yaml")
    assert config.deployments["completions"].variants["default"].pools == ["completions"]
    assert config.deployments["named"].variants["default"].pools == ["completions"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no list of models"),
        ("a: [", "not valid YAML"),
        ("model_list: {}", "there is no list of models"),
        ("- a", "there is no list of models"),
    ],
)
def test_what_is_no_litellm_configuration_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        convert(text)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        convert_file(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        convert_file(tmp_path / "bytes.yaml")


MODEL = "model_list:\n- model_name: m\n  litellm_params:\n    model: openai/x\n    api_base: http://a/v1\n"


@pytest.mark.parametrize(
    ("more", "key", "said"),
    [
        ("    api_base: not a url", "model_list[0].litellm_params.api_base", "not an http"),
        ("    organization: [a, b]", "model_list[0].litellm_params.organization", "an entry for each"),
        ("    timeout: os.environ/T", "model_list[0].litellm_params.timeout", "not a number"),
        ("    litellm_credential_name: x", "model_list[0].litellm_params.litellm_credential_name", 'has no "x"'),
        ("  rpm: 3", "model_list[0].rpm", "limits are not carried"),
        ("  model_info: {id: 1}", "model_list[0].model_info", "not carried yet: id"),
        ("router_settings: [1]", "router_settings", "is not a mapping"),
        ("router_settings: {model_group_alias: {'a b': m}}", 'router_settings.model_group_alias."a b"', "a name is"),
        ("include: [x.yaml]", "include", "there is no such setting here"),
    ],
)
def test_what_does_not_fit_is_told(more: str, key: str, said: str) -> None:
    text = MODEL.replace("    api_base: http://a/v1\n", "") if "api_base" in more else MODEL
    assert said in notes(convert(text + more))[key]


def test_weights_between_replicas_of_one_model_are_added_up_and_told() -> None:
    more = MODEL.replace("model_list:\n", "").replace("http://a", "http://b") + "    weight: 3\n"
    other = MODEL.replace("model_list:\n", "").replace("openai/x", "openai/y").replace("http://a", "http://c")
    result = convert(MODEL + more + other)
    variants = parse_config(result.yaml, env={}).deployments["m"].variants
    assert {name: variant.weight for name, variant in variants.items()} == {"x": 4.0, "y": 1.0}
    assert notes(result)["model_list[1].litellm_params.weight"].startswith("changed")


def test_a_literal_dollar_brace_is_escaped() -> None:
    config = parse_config(convert(MODEL + "    api_key: 'a${b}'\n").yaml, env={})
    key = config.pools["m"].engine.api_key
    assert key is not None
    assert key.get_secret_value() == "a${b}"


def test_a_provider_without_a_base_is_told() -> None:
    result = convert(MODEL.replace("openai/x", "hosted_vllm/x").replace("    api_base: http://a/v1\n", ""))
    assert result.deployments == 0
    assert "no api_base" in notes(result)["model_list[0].litellm_params.model"]


@pytest.mark.parametrize(
    ("model", "named", "answer"),
    [
        ("gpt-4o", None, ("openai", "gpt-4o")),
        ("openai/a/b", None, ("openai", "a/b")),
        ("claude-3", None, ("anthropic", "claude-3")),
        ("a/b", None, (None, "a/b")),
        ("a/b", "openai", ("openai", "a/b")),
        ("openai/b", "openai", ("openai", "b")),
        ("azure/x", None, ("azure", "x")),
    ],
)
def test_provider_and_model(model: str, named: str | None, answer: tuple[str | None, str]) -> None:
    assert split_model(model, named) == answer


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("http://10.1.2.3:8000", "on-premise"),
        ("http://localhost", "on-premise"),
        ("http://vllm.default.svc.cluster.local", "on-premise"),
        ("http://gpu7", "on-premise"),
        ("https://api.openai.com", "cloud"),
        ("http://8.8.8.8", "cloud"),
        ("${BASE}", "cloud"),
    ],
)
def test_what_is_not_plainly_private_is_cloud(url: str, site: str) -> None:
    assert site_of(url) == site


@pytest.mark.parametrize(("duration", "setting"), [("1d", "usd_per_day"), ("30d", "usd_per_month")])
def test_limits_of_the_whole_proxy_are_carried(duration: str, setting: str) -> None:
    more = (
        "general_settings: {global_max_parallel_requests: 50}\n"
        f"litellm_settings: {{max_budget: 12.5, budget_duration: {duration}}}\n"
    )
    result = convert(MODEL + more)
    (rule,) = parse_config(result.yaml, env={}).limits
    assert (rule.parallel, float(getattr(rule, setting))) == (50, 12.5)
    assert "calendar" in notes(result)["litellm_settings.max_budget"]


def test_a_budget_for_another_time_is_told_as_lost() -> None:
    result = convert(MODEL + "litellm_settings: {max_budget: 10, budget_duration: 7d}\n")
    assert "for a day or a month" in notes(result)["litellm_settings.max_budget"]
