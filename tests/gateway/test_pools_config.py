"""What is wrong with a pool's sources, and how it is woken, is told at its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config
from gateway.config.checks import check
from gateway.config.load import parse_config
from gateway.config.problems import ConfigError
from gateway.process.banner import Console
from gateway.process.engine_plan import plans_of
from tests.harness import Json

URL = "http://127.0.0.1:1"


def problems(pool: Json) -> list[str]:
    config = Config.model_validate({"pools": {"p": pool}, "deployments": {"m": {"variants": {"v": {"pools": ["p"]}}}}})
    return [f"{'.'.join(map(str, found.path))}: {found.message}" for found in check(config)]


@pytest.mark.parametrize(
    ("pool", "problem"),
    [
        ({"urls": [URL], "file": "r.yaml"}, "pools.p.file: replicas are named by `urls` and by `file`"),
        (
            {"dns": {"name": "a", "port": 1}, "kubernetes": {"service": "a"}},
            "pools.p.kubernetes: replicas are named by `dns` and by `kubernetes`",
        ),
        ({"file": "/nowhere/r.yaml"}, 'pools.p.file: there is no folder "/nowhere"'),
        (
            {"file": "r.yaml", "replicas": 2},
            "pools.p.replicas: `replicas` is for engines that the gateway starts, but there are `file`",
        ),
        (
            {"urls": [URL], "scale_to_zero": {"wake": {}}},
            "pools.p.scale_to_zero.wake: `wake` has neither `command` nor `webhook`",
        ),
        (
            {"urls": [URL], "scale_to_zero": {"wake": {"command": ["a"], "webhook": URL}}},
            "pools.p.scale_to_zero.wake: `wake` has both `command` and `webhook`",
        ),
        (
            {"engine": {"kind": "fake"}, "scale_to_zero": {"wake": {"command": ["a"]}}},
            "pools.p.scale_to_zero: engines that the gateway starts itself are never asleep",
        ),
    ],
)
def test_what_contradicts_itself_is_told(pool: Json, problem: str) -> None:
    assert problems(pool) == [problem]


@pytest.mark.parametrize(
    "pool",
    [
        {"dns": {"name": "vllm.llm.svc", "port": 8000}},
        {"file": "replicas.yaml", "warm_up": {"body": '{"input": "x"}'}, "probe": {"every_s": None}},
        {"kubernetes": {"service": "a"}, "scale_to_zero": {"wake": {"webhook": URL}}, "slow_start_s": 5},
    ],
)
def test_what_is_found_later_is_neither_missing_nor_started(pool: Json) -> None:
    assert problems(pool) == []
    assert plans_of(Config.model_validate({"pools": {"p": pool}})) == []


@pytest.mark.parametrize("body", ["hello", "[1]", "3"])
def test_a_warm_up_that_is_no_json_object_is_refused_when_the_file_is_read(body: str) -> None:
    text = f"pools: {{p: {{urls: ['{URL}'], warm_up: {{body: '{body}'}}}}}}"
    with pytest.raises(ConfigError, match="must be a JSON object"):
        parse_config(text)


def test_the_overview_says_where_replicas_are_found(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def route(pool: dict[str, Any]) -> str:
        variants = {"v": {"pools": ["p"]}}
        config = Config.model_validate({"pools": {"p": pool}, "deployments": {"m": {"variants": variants}}})
        Console("pretty").overview(config, "http://here", 1)
        return capsys.readouterr().err.rstrip().splitlines()[-1].strip()

    assert route({"urls": ["http://me:pw@a:1"]}) == "m → v → p: openai on http://a:1"
    assert route({"dns": {"name": "a.b", "port": 1}}) == "m → v → p: openai on dns a.b"
    assert route({"file": f"{tmp_path}/r.yaml"}) == f"m → v → p: openai on file {tmp_path}/r.yaml"
    assert route({"kubernetes": {"service": "s", "namespace": "n"}}) == "m → v → p: openai on kubernetes n/s"
