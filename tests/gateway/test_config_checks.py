"""What the types cannot say: references, collisions and contradictions, each at its line."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from gateway.config.load import load, parse_config
from gateway.config.problems import ConfigError, Problem
from gateway.config.sites import is_loopback
from gateway.keys import hash_key


def problems(text: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml", {})
    return caught.value.problems


POOLS = "pools:\n  local: {urls: [http://a]}\n  cloud: {urls: [http://b]}\n"


def deployment(rest: str, pools: str = POOLS) -> str:
    return f"{pools}deployments:\n{rest}"


@pytest.mark.parametrize(
    ("text", "line", "key", "said"),
    [
        (
            deployment("  m: {variants: {v: {pools: [locl]}}}\n"),
            5,
            "deployments.m.variants.v.pools[0]",
            'there is no pool "locl" (did you mean "local"?)',
        ),
        (
            deployment("  m: {variants: {v: {pools: [local, local]}}}\n"),
            5,
            "deployments.m.variants.v.pools[1]",
            'the pool "local" stands twice',
        ),
        (
            deployment(
                "  m:\n    variants:\n      v: {pools: [local], weight: 0}\n      w: {pools: [cloud], weight: 0}\n"
            ),
            6,
            "deployments.m.variants",
            "every variant has weight 0",
        ),
        (
            deployment(
                "  m: {aliases: [n], variants: {v: {pools: [local]}}}\n  n: {variants: {v: {pools: [local]}}}\n"
            ),
            5,
            "deployments.m.aliases[0]",
            '"n" is a deployment already',
        ),
        (
            deployment(
                "  m: {aliases: [x], variants: {v: {pools: [local]}}}\n"
                "  n: {aliases: [x], variants: {v: {pools: [local]}}}\n"
            ),
            6,
            "deployments.n.aliases[0]",
            '"x" is an alias of "m" already',
        ),
        (
            deployment("  m:\n    timeouts: {ttft_s: 60, total_s: 30}\n    variants: {v: {pools: [local]}}\n"),
            6,
            "deployments.m.timeouts.ttft_s",
            "ttft_s 60 is more than total_s 30",
        ),
        (
            deployment("  m:\n    timeouts: {connect_s: 60, total_s: 30}\n    variants: {v: {pools: [local]}}\n"),
            6,
            "deployments.m.timeouts.connect_s",
            "connect_s 60 is more than total_s 30",
        ),
        ("pools:\n  a: {}\n", 2, "pools.a", "add `urls: [http://…]`, or take `kind: llamacpp`"),
        ("pools:\n  a: {engine: {kind: vllm}}\n", 2, "pools.a.engine", "vllm without `urls` needs a `model`"),
        (
            "pools:\n  a: {engine: {kind: transformers, model: m, python: /none/python}}\n",
            2,
            "pools.a.engine.python",
            'there is no program "/none/python"',
        ),
        (
            "pools:\n  a: {engine: {kind: vllm, model: m, args: [--port=1]}}\n",
            2,
            "pools.a.engine.args[0]",
            "the gateway itself sets --port: it is a free one",
        ),
        (
            "pools:\n  a: {replicas: 2, engine: {kind: vllm, model: m, gpus: [0, 1, 2]}}\n",
            2,
            "pools.a.engine.gpus",
            "3 GPUs cannot be shared out evenly by 2 replicas",
        ),
        ("pools:\n  a:\n    engine: {kind: llamacpp}\n", 3, "pools.a.engine", "needs a `model` to start"),
        (
            "pools:\n  a:\n    engine: {kind: llamacpp, model: /nowhere/x.gguf}\n",
            3,
            "pools.a.engine.model",
            'there is no file "/nowhere/x.gguf"',
        ),
        ("pools:\n  a:\n    urls: [http://a]\n    replicas: 2\n", 4, "pools.a.replicas", "but there are `urls`"),
        ("pools:\n  a:\n    urls: [http://a, http://a/v1]\n", 3, "pools.a.urls[1]", '"http://a" stands twice'),
        (
            "pools:\n  a:\n    urls: [https://a]\n    engine: {ca_file: /nowhere/ca.pem}\n",
            4,
            "pools.a.engine.ca_file",
            "there is no file",
        ),
        ("server:\n  host: 0.0.0.0\n", 2, "server.host", "(add auth.keys, auth.jwt or database, or bind 127.0.0.1)"),
        ("auth:\n  keys:\n    - name: a\n", 3, "auth.keys[0]", 'has neither "hash" nor "key"'),
        (
            f"auth:\n  keys:\n    - name: a\n      key: x\n      hash: {hash_key('y', '')}\n",
            4,
            "auth.keys[0].key",
            'has both "hash" and "key"',
        ),
        ("auth:\n  keys:\n    - {name: a, key: ' '}\n", 3, "auth.keys[0].key", "the key is empty"),
        (
            "auth:\n  keys:\n    - {name: a, key: x}\n    - {name: a, key: y}\n",
            4,
            "auth.keys[1].name",
            'the name "a" is that of auth.keys[0] as well',
        ),
        (
            "auth:\n  keys:\n    - {name: a, key: x}\n    - {name: b, key: x}\n",
            4,
            "auth.keys[1]",
            'it is the same key as "a"',
        ),
        (
            f"auth:\n  salt: s\n  keys:\n    - {{name: a, key: x}}\n    - {{name: b, hash: '{hash_key('x', 's')}'}}\n",
            5,
            "auth.keys[1]",
            'it is the same key as "a"',
        ),
        (
            "auth:\n  keys:\n    - {name: a, key: x, deployments: [mm]}\n"
            + deployment("  m: {variants: {v: {pools: [local]}}}\n"),
            3,
            "auth.keys[0].deployments[0]",
            '"mm" is no deployment',
        ),
        (
            "auth:\n  keys:\n    - {name: a, key: x, deployments: [n]}\n"
            + deployment("  m: {aliases: [n], variants: {v: {pools: [local]}}}\n"),
            3,
            "auth.keys[0].deployments[0]",
            '"n" is an alias (write "m")',
        ),
    ],
)
def test_a_contradiction_is_told_at_its_line(text: str, line: int, key: str, said: str) -> None:
    found = problems(text)
    assert len(found) == 1, [str(one) for one in found]
    assert (found[0].line, found[0].key) == (line, key)
    assert said in str(found[0])


def test_missing_tls_files_are_told_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").touch()
    found = problems(f"server:\n  tls:\n    cert: {tmp_path}/cert.pem\n    key: {tmp_path}/key.pem\n")
    assert [one.key for one in found] == ["server.tls.key"]


def test_keys_allow_any_address() -> None:
    parse_config("server: {host: 0.0.0.0}\nauth: {keys: [{name: a, key: x}]}", env={})


def test_a_database_that_may_hold_keys_allows_any_address() -> None:
    config = parse_config("server: {host: 0.0.0.0}\ndatabase: {}\n", env={})
    assert config.server.host == "0.0.0.0"


@pytest.mark.parametrize("written", ["0.1", "'0.1'", "'${USD}'"])
def test_money_is_taken_as_it_is_written(written: str) -> None:
    config = parse_config(f"tenants: {{a: {{limits: {{usd_per_day: {written}}}}}}}", env={"USD": "0.1"})
    assert config.tenants["a"].limits.usd_per_day == Decimal("0.1")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        *(("true", "true is not a number"), ("abc", '"abc" is not a number'), ("[1]", "a list is not a number")),
        *(("0", "more than 0"), ("1e9", "at most 1,000,000"), (".inf", "not a finite number")),
    ],
)
def test_money_that_is_none_is_refused(written: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config(f"tenants: {{a: {{limits: {{usd_per_day: {written}}}}}}}", env={})


@pytest.mark.parametrize("kind", ["fake", "llamacpp"])
def test_a_pool_that_the_gateway_can_start_needs_no_url(kind: str) -> None:
    parse_config(f"pools: {{a: {{engine: {{kind: {kind}, model: some-name}}, replicas: 2}}}}", env={})


def test_the_default_time_to_connect_does_not_fight_a_short_total() -> None:
    parse_config(deployment("  m: {timeouts: {total_s: 1}, variants: {v: {pools: [local]}}}\n"), env={})


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_what_counts_as_loopback(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


def warnings(tmp_path: Path, text: str, **env: str) -> list[str]:
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    found = load(file, env).warnings
    assert all(one.severity == "warning" for one in found)
    return [f"{one.line}: {one.key}: {one.message}" for one in found]


def test_a_pool_that_nothing_uses_is_a_warning(tmp_path: Path) -> None:
    found = warnings(tmp_path, deployment("  m: {variants: {v: {pools: [local]}}}\n"))
    assert found == ["3: pools.cloud: no deployment uses this pool"]


def test_no_deployments_is_a_warning(tmp_path: Path) -> None:
    assert warnings(tmp_path, "") == ["1: : there are no deployments: every request will get 404"]


def test_a_key_written_out_is_a_warning_and_one_from_the_environment_is_not(tmp_path: Path) -> None:
    text = "deployments: {}\nauth:\n  keys:\n    - {name: a, key: plain}\n    - {name: b, key: '${K}'}\n"
    assert "4: auth.keys[0].key: the key is written out in the file" in warnings(tmp_path, text, K="x")
    assert not any("keys[1]" in one for one in warnings(tmp_path, text, K="x"))


def test_hashes_without_a_salt_are_a_warning(tmp_path: Path) -> None:
    text = f"auth:\n  keys:\n    - {{name: a, hash: '{hash_key('x', '')}'}}\n"
    assert "3: auth.keys[0].hash: key hashes have no salt" in warnings(tmp_path, text)
    assert not any("salt" in one for one in warnings(tmp_path, text.replace("auth:", "auth:\n  salt: s")))


def test_the_text_of_a_warning_says_that_it_is_one(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.touch()
    assert str(load(file, {}).warnings[0]).startswith(f"{file}:1:1: warning: there are no deployments")
