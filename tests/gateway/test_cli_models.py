"""`headrace models`, as people call it, and how a fetch shows itself."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engines import models
from gateway.cli.models import app
from gateway.cli.progress import BarProgress, LineProgress, fetch_progress

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache that holds the small model already."""
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    path = tmp_path / "models" / "smollm2-135m-instruct" / GGUF
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    return path


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_pull_prints_the_path_and_nothing_else_on_standard_output(cached: Path) -> None:
    result = CliRunner().invoke(app, ["pull", "smollm2-135m-instruct"])
    assert (result.exit_code, result.stdout) == (0, f"{cached}\n")


def test_pull_gives_json(cached: Path) -> None:
    result = CliRunner().invoke(app, ["pull", "smollm2-135m-instruct", "--json"])
    assert json.loads(result.stdout) == {"model": "smollm2-135m-instruct", "path": str(cached), "size_bytes": 4}


def test_a_name_that_means_nothing_ends_with_one_and_the_names_there_are(cached: Path) -> None:
    result = CliRunner().invoke(app, ["pull", "smolm"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "error: unknown model 'smolm': it is not in the catalogue (smollm2-135m-instruct)" in result.stderr


def test_an_error_is_json_where_json_was_asked(cached: Path) -> None:
    result = CliRunner().invoke(app, ["pull", "./none.gguf", "--json"])
    assert json.loads(result.stdout) == {"model": "./none.gguf", "error": "there is no model file none.gguf"}


def test_list_says_what_is_here_and_how_to_get_the_rest(cached: Path) -> None:
    line = CliRunner().invoke(app, ["list"]).stdout.splitlines()[0].split()
    assert line == ["smollm2-135m-instruct", "98.4", "MB", "Apache-2.0", str(cached)]
    cached.unlink()
    assert "headrace models pull smollm2-135m-instruct" in CliRunner().invoke(app, ["list"]).stdout


def test_list_gives_json(cached: Path) -> None:
    row, *_ = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    assert row["cached"] is True
    assert row["path"] == str(cached)
    assert row["size_bytes"] == models.catalog()[0].size_bytes


def test_outside_a_terminal_a_fetch_says_a_line_now_and_then() -> None:
    stream = io.StringIO()
    with fetch_progress(stream) as progress:
        assert isinstance(progress, LineProgress)
        progress.begin("tiny", 200_000_000, 50_000_000)
        for _ in range(150):
            progress.advance(1_000_000)
        progress.note("verifying the checksum")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "fetching tiny, 200.0 MB, of which 50.0 MB are here"
    assert lines[1] == "tiny: 35 %, 70.0 MB"
    assert lines[-2:] == ["tiny: 95 %, 190.0 MB", "verifying the checksum"]
    assert len(lines) == 9


def test_a_fetch_of_unknown_size_tells_what_came_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    progress = LineProgress(stream)
    monkeypatch.setattr("gateway.cli.progress._LINE_EVERY_S", 0.0)
    progress.begin("tiny", None, 0)
    progress.advance(1_500_000)
    assert stream.getvalue().splitlines() == ["fetching tiny", "tiny: 1.5 MB"]


def test_in_a_terminal_a_fetch_shows_a_bar() -> None:
    stream = Terminal()
    with fetch_progress(stream) as progress:
        assert isinstance(progress, BarProgress)
        progress.begin("tiny", 100, 0)
        progress.advance(100)
        progress.note("unpacking [tiny]")
    assert "tiny" in stream.getvalue()
    assert "unpacking [tiny]" in stream.getvalue()
