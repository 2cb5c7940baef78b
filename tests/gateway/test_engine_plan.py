"""From the configuration to the engines that are to run: their commands, environments and GPUs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engines.launcher import LaunchError
from gateway.config.checks import check
from gateway.config.load import parse_config
from gateway.process.engine_plan import Plan, plans_of

DEPLOYMENT = "deployments: {m: {variants: {v: {pools: [p]}}}}\n"


def plans(engine: str, replicas: int = 1) -> list[Plan]:
    return plans_of(parse_config(f"pools: {{p: {{engine: {{{engine}}}, replicas: {replicas}}}}}\n{DEPLOYMENT}"))


def test_vllm_is_started_under_the_deployments_names_with_gpus_and_environment_of_its_own() -> None:
    first, second = plans(
        f"kind: vllm, model: org/m, python: {sys.executable}, gpus: 2, start_timeout_s: 900, args: [--dtype=half], "
        "env: {HF_TOKEN: hidden, VLLM_LOGGING_LEVEL: DEBUG}",
        replicas=2,
    )
    spec = second.spec(9000, None)
    assert spec.argv[:5] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", "org/m"]
    assert spec.argv[5:] == ["--served-model-name", "m", "--host", "127.0.0.1", "--port", "9000", "--dtype=half"]
    assert spec.env["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert (spec.env["HF_TOKEN"], spec.env["VLLM_LOGGING_LEVEL"]) == ("hidden", "DEBUG")
    assert spec.ready_timeout_s == 900
    assert first.what == "org/m on GPU 0, 1"
    assert "hidden" not in repr(second)


def test_transformers_and_the_fake_engine_get_their_arguments() -> None:
    (plan,) = plans("kind: transformers, model: /models/m, args: [--continuous-batching]")
    spec = plan.spec(9001, None)
    assert spec.argv[:5] == [sys.executable, "-m", "transformers.cli.transformers", "serve", "/models/m"]
    assert spec.argv[-1] == "--continuous-batching"
    assert (dict(spec.env), spec.ready_timeout_s) == ({}, 600)
    (plan,) = plans("kind: fake, args: [--seed=1]")
    assert plan.spec(9002, None).argv[-1] == "--seed=1"
    assert plan.spec(9002, None).ready_timeout_s == 60


def test_llamacpp_gets_its_file() -> None:
    (plan,) = plans("kind: llamacpp, model: smollm2-135m-instruct, slots: 2, gpus: 0")
    spec = plan.spec(9003, Path("/models/m.gguf"))
    assert "/models/m.gguf" in spec.argv
    assert spec.env["CUDA_VISIBLE_DEVICES"] == ""
    assert plan.what == "smollm2-135m-instruct"


def test_a_change_that_matters_to_an_engine_makes_it_another() -> None:
    (one,) = plans("kind: vllm, model: m, env: {A: '1'}")
    (same,) = plans("kind: vllm, model: m, env: {A: '1'}")
    (other,) = plans("kind: vllm, model: m, env: {A: '2'}")
    assert one == same
    assert hash(one) == hash(same)
    assert one != other


def test_a_gpu_that_the_gateway_may_not_use_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (plan,) = plans("kind: vllm, model: m, gpus: [1]")
    with pytest.raises(LaunchError, match=r"p-0: `gpus` names GPU 1, but CUDA_VISIBLE_DEVICES=0 allows 1 only"):
        plan.spec(9000, None)


def test_a_gpu_that_two_engines_are_given_is_a_warning() -> None:
    tree = """
pools:
  a: {engine: {kind: vllm, model: m, gpus: 1}, replicas: 2}
  b: {engine: {kind: vllm, model: m, gpus: [1, GPU-x, GPU-x]}}
  c: {engine: {kind: vllm, gpus: 8}, urls: ["http://h"]}
deployments: {m: {variants: {v: {pools: [a, b, c]}}}}
"""
    found = [(str(one.path[1]), one.message, one.severity) for one in check(parse_config(tree))]
    assert found == [
        ("b", 'GPU 1 is given to the pool "a" as well', "warning"),
        ("b", "GPU GPU-x is twice in this list", "warning"),
    ]
