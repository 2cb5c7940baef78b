"""What is wrong with `spill` is told at its place, with the setting that puts it right."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import Config
from gateway.config.checks import check
from tests.harness import Json

POOLS: Json = {
    "gpus": {"urls": ["http://127.0.0.1:1"]},
    "small": {"urls": ["http://127.0.0.1:2"]},
    "cloud": {"urls": ["http://127.0.0.1:3"], "site": "cloud"},
}


def findings(deployment: Json, more: Json | None = None) -> list[str]:
    named = {pool for variant in deployment["variants"].values() for pool in variant["pools"]}
    pools = {name: pool for name, pool in POOLS.items() if name in named}
    config = Config.model_validate({"pools": pools, "deployments": {"m": deployment}, **(more or {})})
    return [f"{'.'.join(map(str, one.path))}: {one.message} ({one.hint})" for one in check(config)]


def variants(**given: Any) -> Json:
    return {name: {"pools": [pool]} if isinstance(pool, str) else pool for name, pool in given.items()}


@pytest.mark.parametrize(
    ("deployment", "key", "said"),
    [
        ({"variants": variants(a="gpus"), "spill": {"ttft_s": 1}}, "m.spill", "nowhere to spill to"),
        ({"variants": variants(a="cloud"), "spill": {"ttft_s": 1}}, "m.spill", "nothing to spill from"),
        (
            {"variants": variants(a="gpus", b="cloud"), "spill": {"ttft_s": 1, "step_down": "before"}},
            "m.spill.step_down",
            "there is no variant to step down to",
        ),
        (
            {"variants": variants(a="gpus", b={"pools": ["small"], "step_down": True})},
            "m.variants.b.step_down",
            'nothing ever steps down to "b"',
        ),
        (
            {
                "variants": variants(a="gpus", c="cloud", b={"pools": ["small"], "step_down": True}),
                "spill": {"ttft_s": 1},
            },
            "m.variants.b.step_down",
            "set `spill.step_down` to `before` or `after`",
        ),
        (
            {
                "variants": variants(a="gpus", b={"pools": ["small", "cloud"], "step_down": True}),
                "spill": {"ttft_s": 1, "step_down": "after"},
            },
            "m.variants.b.pools",
            "has a cloud pool",
        ),
        (
            {
                "variants": variants(a="gpus", b={"pools": ["gpus"], "step_down": True}),
                "spill": {"ttft_s": 1, "step_down": "after"},
            },
            "m.variants.b.pools.0",
            'the pool "gpus" serves "a" too',
        ),
        (
            {
                "variants": variants(a="gpus", c={"pools": ["cloud"], "model": "house-model"}),
                "spill": {"ttft_s": 1, "max_usd_per_hour": 5},
            },
            "m.spill.max_usd_per_hour",
            'add `prices: {"house-model": {input: …, output: …}}`',
        ),
        (
            {
                "variants": variants(a="gpus", c={"pools": ["cloud"], "model": "house-model"}),
                "spill": {"ttft_s": 1, "max_usd_per_request": 5},
            },
            "m.spill.max_usd_per_request",
            'what "house-model" costs is not known',
        ),
        (
            {"variants": variants(a="gpus", c="cloud"), "spill": {"ttft_s": 1, "tenants": {"shop": 2}}},
            "m.spill.tenants.shop",
            '"shop" is no tenant of any key',
        ),
    ],
)
def test_what_cannot_work_is_told(deployment: Json, key: str, said: str) -> None:
    [found] = findings(deployment)
    assert found.startswith(f"deployments.{key}: ")
    assert said in found


def test_a_deployment_of_nothing_but_smaller_variants_is_refused() -> None:
    found = findings({"variants": variants(b={"pools": ["small"], "step_down": True})})
    assert "deployments.m.variants: every variant is one to step down to" in found[0]


@pytest.mark.parametrize("model", ["gpt-4.1-mini", "house-model"])
def test_limits_in_usd_are_taken_where_the_price_is_known(model: str) -> None:
    deployment = {
        "variants": variants(a="gpus", c={"pools": ["cloud"], "model": model}),
        "spill": {"ttft_s": 1, "max_usd_per_hour": 5, "max_usd_per_request": 0.5},
    }
    assert findings(deployment, {"prices": {"house-model": {"input": 1, "output": 2}}}) == []


def test_all_there_is_to_say_may_be_said_at_once() -> None:
    deployment = {
        "variants": variants(
            a={"pools": ["gpus", "cloud"], "max_context_tokens": 8192, "capabilities": ["tools"]},
            b={"pools": ["small"], "step_down": True, "capabilities": []},
        ),
        "spill": {"ttft_s": 2, "tenants": {"default": 0.5}, "until": 0.5, "step_down": "before"},
    }
    assert findings(deployment) == []


def test_the_defaults_are_those_of_the_manual() -> None:
    deployment = {"variants": variants(a="gpus", c="cloud"), "spill": {"ttft_s": 2}}
    config = Config.model_validate({"pools": POOLS, "deployments": {"m": deployment}})
    spill = config.deployments["m"].spill
    assert spill is not None
    assert (spill.until, spill.max_usd_per_hour, spill.max_usd_per_request) == (0.7, None, None)
    assert (spill.step_down, spill.tenants) == ("never", {})
