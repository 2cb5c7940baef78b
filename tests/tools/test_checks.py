"""The checks of `make test` that are ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str, folder: Path = ROOT, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / script), *arguments]
    return subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, check=False)


def test_long_modules_and_functions_are_named(tmp_path: Path) -> None:
    body = "    pass\n"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "short.py").write_text("def short():\n" + body * 59)
    (tmp_path / "code" / "long.py").write_text("async def long():\n" + body * 60 + "\n" * 540)
    done = run("check_sizes.py", "code", folder=tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "code/long.py: 601 lines; the limit is 600",
        "code/long.py:1: long has 61 lines; the limit is 60",
    ]


def test_tests_may_be_longer(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_x.py").write_text("\n" * 800)
    assert run("check_sizes.py", "tests", folder=tmp_path).returncode == 0


@pytest.mark.parametrize(("covered", "code"), [(90, 0), (89, 1)])
def test_too_few_covered_branches_are_refused(covered: int, code: int) -> None:
    given = json.dumps({"totals": {"covered_branches": covered, "num_branches": 100}})
    done = run("check_coverage.py", "90", given=given)
    assert done.returncode == code
    assert f"branches covered: {covered}.0 % of 100; the limit is 90 %" in done.stdout


def test_make_lists_every_target_that_people_type() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    everyday = ("setup", "serve", "dev", "test", "check", "lint", "format", "clean")
    for target in (*everyday, "e2e", "bench", "profile", "docs", "schema"):
        assert f"make {target} " in listed
