"""A pool that Ray runs: what the file may say, and the command that comes of it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import Config
from gateway.config.checks import check
from gateway.process.engine_plan import plans_of


def config(**engine: Any) -> Config:
    options = {"kind": "vllm", "model": "org/model", "launcher": "ray", **engine}
    pool = {"replicas": 2, "engine": options}
    return Config.model_validate(
        {"pools": {"cluster": pool}, "deployments": {"chat": {"variants": {"v": {"pools": ["cluster"]}}}}}
    )


def command(**engine: Any) -> str:
    (plan,) = plans_of(config(**engine))
    return " ".join(plan.spec(9001, None).argv)


def test_all_replicas_are_one_plan() -> None:
    told = command(gpus=2, ray={"max_replicas": 6, "resources": {"H100": 0.5}, "address": "10.0.0.1:6379"})
    controller, _, engine = told.partition(" -- ")
    for flags in ("--min 2 --max 6", "--gpus 2", "--resource H100=0.5", "--address 10.0.0.1:6379", "--port 9001"):
        assert flags in controller
    assert "--served-model-name chat --host {host} --port {port}" in engine


def test_secrets_go_through_the_environment_and_not_the_command() -> None:
    (plan,) = plans_of(config(env={"HF_TOKEN": "hf_secret"}))
    spec = plan.spec(9001, None)
    assert spec.env["HF_TOKEN"] == "hf_secret"
    assert "--env HF_TOKEN" in " ".join(spec.argv) and "hf_secret" not in " ".join(spec.argv)


def test_onnx_takes_its_folder_and_its_name() -> None:
    assert "engines.onnx --model org/model --alias chat" in command(kind="onnx")
    (plan, other) = plans_of(config(kind="onnx", launcher="local"))
    assert plan != other
    assert "--port 9001" in " ".join(plan.spec(9001, None).argv)


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ({"gpus": [0, 1]}, "on a Ray cluster it is Ray that chooses the GPUs"),
        ({"kind": "llamacpp", "model": "smollm2-135m"}, "llamacpp runs on this machine only"),
        ({"ray": {"max_replicas": 1}}, "1 is below `replicas`, of which there are at least 2"),
    ],
)
def test_what_ray_cannot_do_is_refused(engine: dict[str, Any], told: str) -> None:
    assert told in [finding.message for finding in check(config(**engine))]


def test_running_engines_are_not_started_by_ray() -> None:
    file = config().model_dump()
    file["pools"]["cluster"] |= {"urls": ["http://a:1"], "replicas": 1}
    messages = [finding.message for finding in check(Config.model_validate(file))]
    assert "Ray starts engines, but the pool names running ones" in messages
