"""The reference pages and the examples say what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli.reference import DOCS, cli_page, config_page, main
from gateway.config.load import load

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
STALE = "is stale: run `python -m gateway.cli.reference write`"


def test_the_configuration_reference_is_up_to_date() -> None:
    assert (DOCS / "config.md").read_text(encoding="utf-8") == config_page(), f"docs/reference/config.md {STALE}"


def test_the_command_line_reference_is_up_to_date() -> None:
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == cli_page(), f"docs/reference/cli.md {STALE}"


def test_the_pages_can_be_printed_and_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    main("config")
    assert capsys.readouterr().out == config_page()
    monkeypatch.setattr("gateway.cli.reference.DOCS", tmp_path)
    main("write")
    assert {file.name for file in tmp_path.iterdir()} == {"config.md", "cli.md"}


def test_a_wrong_call_of_the_generator_says_how() -> None:
    done = subprocess.run([sys.executable, "-m", "gateway.cli.reference"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "config|cli|write" in done.stderr


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_is_right_and_gives_no_warning(file: Path, tmp_path: Path) -> None:
    pem = tmp_path / "pem"
    pem.touch()
    names = ("KEY_SALT", "BATCH_KEY", "CHAT_APP_KEY", "ADMIN_KEY", "OPENAI_API_KEY", "HEADRACE_KEY")
    env = {**{name: f"value of {name}" for name in names}, "TLS_CERT": str(pem), "TLS_KEY": str(pem)}
    assert load(file, env).warnings == ()


def test_the_three_examples_are_there() -> None:
    assert {"gpu-pool.yaml", "hybrid.yaml", "laptop.yaml"} <= {file.name for file in EXAMPLES}
