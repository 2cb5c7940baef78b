"""`headrace simulate`, as people call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli.root import app
from gateway.simulator.trace import Request
from router.policies import POLICIES
from tests.gateway.simulator import conversations, log_line, write_lines, write_mooncake

CONFIG = """
pools: {{gpus: {{urls: [{urls}]}}}}
deployments: {{llama: {{policy: {policy}, variants: {{d: {{pools: [gpus]}}}}}}}}
"""


def call(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["simulate", *map(str, words)])


def simulated(*words: str | Path) -> Any:
    result = call(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write_mooncake(tmp_path / "trace.jsonl", conversations(20, 2).requests)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    lines = [log_line(i / 4 + 0.3, 0.3, tokens=(600 + i, 11, 64 * (i % 5)), ttft_s=0.1) for i in range(200)]
    return write_lines(tmp_path / "access.jsonl", [*lines, log_line(60.0, 0.0, tokens=(0, 0, 0), status=503)])


def config(path: Path, replicas: int, policy: str) -> Path:
    path.write_text(CONFIG.format(urls=", ".join(f'"http://10.0.0.{i}:1"' for i in range(replicas)), policy=policy))
    return path


def test_json_has_the_settings_and_the_figures_of_every_policy(trace: Path) -> None:
    told = simulated("--trace", trace, "--replicas", "3", "--seeds", "2", "--scale", "2")
    assert told["settings"]["replicas"] == 3
    assert told["settings"]["requests"] == told["policies"]["random"]["completed"] == 40
    assert sorted(told["policies"]) == sorted(POLICIES)
    wanted = {"mean_ttft_s", "p99_ttft_s", "mean_e2e_s", "p99_e2e_s", "slo_share", "hit_rate", "completed"}
    assert all(wanted <= figures.keys() for figures in told["policies"].values())


def test_the_same_words_give_the_same_figures_in_any_number_of_processes(trace: Path) -> None:
    words = ("--trace", trace, "--policy", "random,marginal_latency", "--seeds", "2")
    assert simulated(*words, "--processes", "1") == simulated(*words, "--processes", "2")


def test_engines_may_differ(trace: Path) -> None:
    words = ("--trace", trace, "--policy", "round_robin", "--seeds", "1")
    mixed = simulated(*words, "--speeds", "1,1,0.5", "--rtts", "0,0,0.08", "--prices", "0,0,2.5:10")
    assert mixed["settings"]["speeds"] == [1.0, 1.0, 0.5]
    assert mixed["settings"]["replicas"] == 3
    assert mixed["policies"]["round_robin"]["price_usd"] > 0
    assert "price_usd" not in simulated(*words)["policies"]["round_robin"]


def test_requests_may_wait_in_the_gateway(trace: Path) -> None:
    words = ("--trace", trace, "--policy", "least_requests", "--seeds", "1", "--replicas", "1", "--max-in-flight", "1")
    refused = simulated(*words, "--scale", "20")["policies"]["least_requests"]
    held = simulated(*words, "--scale", "0.5", "--queue", "--prefix", "predicted")
    assert refused["completed"] < 40
    assert held["policies"]["least_requests"]["completed"] == 40
    assert (held["settings"]["hold_over_s"], held["settings"]["prefix"]) == (2.0, "predicted")


def test_a_table_has_a_row_for_each_policy_the_best_first(trace: Path) -> None:
    result = call("--trace", trace, "--seeds", "1", "--limit", "10")
    assert result.exit_code == 0
    heading, *rows = result.stdout.strip().splitlines()
    assert heading.split()[:4] == ["policy", "TTFT", "mean", "s"]
    assert sorted(row.split()[0] for row in rows) == sorted(POLICIES)
    means = [float(row.split()[1]) for row in rows]
    assert means == sorted(means)


def test_distributions_are_drawn(trace: Path, tmp_path: Path) -> None:
    assert call("--trace", trace, "--seeds", "1", "--plot", tmp_path / "plots").exit_code == 0
    for name in ("ttft", "tpot", "e2e"):
        assert (tmp_path / "plots" / f"{name}.svg").read_text().count("<polyline") == len(POLICIES)
    refused = call("--trace", trace, "--seeds", "1", "--plot", trace)
    assert (refused.exit_code, refused.stderr) == (1, f"--plot {trace}: File exists\n")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--policy", "fastest"], "--policy: 'fastest' is no policy; known: cache_aware, kv_cost, "),
        (["--policy", ","], "--policy: ',' is no policy; known: "),
        (["--replicas", "4", "--speeds", "1,0.5"], "--speeds has 2 values for 4 engines; give one for all, or one for"),
        (["--speeds", "1,quick"], "--speeds: 'quick' is not a number"),
        (["--speeds", "0"], "--speeds: 0 is not between 0.001 and 1,000,000"),
        (["--rtts", "-1"], "--rtts: -1 is not between 0 and 1,000,000"),
        (["--prices", "1:x"], "--prices: 'x' is not a number"),
        (["--rtts", "nan"], "--rtts: nan is not between 0 and 1,000,000"),
        (["--config", "x.yaml"], "give --trace FILE, or --from-log FILE with --config FILE"),
    ],
)
def test_what_is_wrong_is_said(trace: Path, words: list[str], problem: str) -> None:
    result = call("--trace", trace, *words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(problem)


def test_a_bad_trace_is_named_with_the_line(tmp_path: Path) -> None:
    path = write_mooncake(tmp_path / "t.jsonl", [Request(0.0, 100, 1)])
    path.write_text(path.read_text() + '{"timestamp": "noon"}\n')
    result = call("--trace", path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{path}:2: ")


def test_a_cache_that_holds_no_block_is_refused(tmp_path: Path) -> None:
    path = write_mooncake(tmp_path / "t.jsonl", [Request(0.0, 100, 1)])
    assert call("--trace", path, "--kv-tokens", "1024").exit_code == 0
    assert call("--trace", path, "--kv-tokens", "512").exit_code == 2


def test_what_a_change_would_have_done_to_logged_traffic(log: Path, tmp_path: Path) -> None:
    old, new = config(tmp_path / "old.yaml", 4, "round_robin"), config(tmp_path / "new.yaml", 1, "marginal_latency")
    told = simulated("--from-log", log, "--config", new, "--against", old, "--seeds", "1")
    assert told["settings"]["skipped"] == 1
    assert told["measured"]["mean_ttft_s"] == pytest.approx(0.1)
    assert told["old"]["mean_ttft_s"] == pytest.approx(0.1, rel=0.2)
    assert told["new"]["mean_ttft_s"] > told["old"]["mean_ttft_s"]
    ratio = told["new"]["mean_ttft_s"] / told["old"]["mean_ttft_s"]
    assert told["change"]["mean_ttft_s"] == pytest.approx(ratio - 1, abs=1e-3)


def test_the_change_is_a_column(log: Path, tmp_path: Path) -> None:
    old, new = config(tmp_path / "old.yaml", 4, "round_robin"), config(tmp_path / "new.yaml", 8, "round_robin")
    both = call("--from-log", log, "--config", new, "--against", old, "--seeds", "1").stdout
    assert both.splitlines()[0].split() == ["in", "the", "log", "old", "new", "change"]
    assert "\n200 requests; 1 lines without tokens were left out\n" in both
    only = call("--from-log", log, "--config", new, "--seeds", "1", "--limit", "5").stdout
    assert only.splitlines()[0].split() == ["in", "the", "log", "new"]
    assert only.endswith("\n5 requests\n")


def test_what_a_configuration_says_cannot_be_said_again(log: Path, tmp_path: Path) -> None:
    result = call("--from-log", log, "--config", config(tmp_path / "c.yaml", 1, "random"), "--policy", "random")
    assert result.exit_code == 1
    assert result.stderr.endswith("go with --trace only\n")


def test_a_bad_configuration_or_log_is_told_as_everywhere(log: Path, tmp_path: Path) -> None:
    good = config(tmp_path / "good.yaml", 1, "random")
    bad = config(tmp_path / "bad.yaml", 1, "fastest")
    refused = call("--from-log", log, "--config", bad)
    assert refused.exit_code == 1
    assert f"{bad}:3:" in refused.stderr
    nothing = call("--from-log", tmp_path / "none", "--config", good)
    assert (nothing.exit_code, nothing.stderr) == (1, f"{tmp_path}/none: No such file or directory\n")
