"""`headrace cache evaluate`, as people call it."""

from __future__ import annotations

import asyncio
import builtins
import csv
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cache.evaluate.vectors import KeptVectors
from cache.index import Floats
from gateway.caching.models import STATIC
from gateway.cli.cache_evaluate_output import bar
from gateway.cli.root import app
from tests.weights import weights_folder

GROUPS, EACH, DIMENSIONS = 12, 100, 48
WORDS = ["card", "cash", "loan", "visa", "bank", "rate", "fee", "pin", "atm", "chip", "lock", "limit"]


def call(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["cache", "evaluate", *map(str, words)])


def told(*words: str | Path) -> Any:
    result = call(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


class Placed:
    """Gives each text the vector that it was made with."""

    name = "placed"
    dimensions = DIMENSIONS

    def __init__(self, places: dict[str, Floats]) -> None:
        self._places = places

    async def embed(self, texts: Sequence[str], *, urgent: bool = True) -> list[Floats]:
        return [self._places[text] for text in texts]

    async def aclose(self) -> None: ...


def keep(path: Path, places: dict[str, Floats], kind: str = "minilm") -> Path:
    kept = KeptVectors(kind)
    asyncio.run(kept.fill(list(places), Placed(places), lambda _count: None))
    kept.write(path)
    return path


def questions() -> dict[str, tuple[str, Floats]]:
    """Twelve answers, and a hundred questions for each that lie near one another."""
    draw = np.random.default_rng(7)
    centres = draw.normal(size=(GROUPS, DIMENSIONS))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    found = {}
    for number, centre in enumerate(centres):
        for each in range(EACH):
            word = WORDS[number]
            text = f"{word} {chr(97 + each % 26)}{chr(97 + each // 26)} {word}"
            found[text] = word, np.asarray(centre + draw.normal(size=DIMENSIONS) * 0.25 / math.sqrt(DIMENSIONS), "f4")
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    asked = questions()
    with (folder / "stream.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question", "intent"), *((text, label) for text, (label, _) in asked.items())])
    keep(folder / "stream.npz", {text: vector for text, (_, vector) in asked.items()})
    return folder


def stream(made: Path) -> tuple[str | Path, ...]:
    columns = ("--text-column", "question", "--label-column", "intent")
    return ("--stream", made / "stream.csv", *columns, "--vectors", made / "stream.npz")


def test_json_has_every_run_each_bound_thresholds_and_vcache(made: Path) -> None:
    found = told(*stream(made), "--seeds", "2", "--max-wrong-hit-rate", "0.05", "--max-wrong-hit-rate", "0.1")
    assert found["settings"] == {
        "stream": "stream.csv",
        "requests": GROUPS * EACH,
        "repeats": 0,
        "too_long": 0,
        "labels": GROUPS,
        "max_wrong_hit_rate": [0.05, 0.1],
        "confidence": 0.95,
        "audit_share": 0.03,
        "judge_error": 0.0,
        "seeds": 2,
        "embedder": "minilm",
    }
    runs = found["runs"]
    assert [(run["max_wrong_hit_rate"], run["seed"]) for run in runs] == [(0.05, 1), (0.05, 2), (0.1, 1), (0.1, 2)]
    for run in runs:
        assert run["kept"] and run["wrong_per_hit"] <= run["max_wrong_hit_rate"]
        assert run["hit_rate"] == pytest.approx(run["hits"] / run["requests"], abs=1e-6)
        assert run["interval"][0] <= run["wrong_per_hit"] <= run["interval"][1]
        assert len(run["hits_by_quarter"]) == 4
    assert sum(run["hits"] for run in runs[:2]) == found["bounds"][0]["hits"] > 0
    assert [one["threshold"] for one in found["static"]] == [0.75, 0.8, 0.85, 0.9, 0.95]
    assert sorted(found["vcache"]) == ["0.05", "0.1"]


def test_the_same_words_give_the_same_figures(made: Path) -> None:
    words = (*stream(made), "--seeds", "1", "--limit", "300", "--judge-error", "0.05", "--audit-share", "0.1")
    assert told(*words) == told(*words)


def test_a_judge_that_errs_as_often_as_not_lets_nothing_be_served(made: Path) -> None:
    (run,) = told(*stream(made), "--seeds", "1", "--judge-error", "0.5")["runs"]
    assert run["hits"] == 0
    assert run["labels"] > 0


def test_a_table_has_a_row_for_each_run_and_each_other_cache(made: Path) -> None:
    shown = call(*stream(made), "--seeds", "2", "--limit", "200").stdout
    lines = shown.splitlines()
    assert next(line.strip() for line in lines if "seed" in line and "certified" in line).startswith(
        "certified, at most 2 %, seed 1"
    )
    assert len(lines) == 1 + 2 + 5 + 1
    assert "vCache, 2 % of all" in shown


def test_a_plot_is_drawn(made: Path, tmp_path: Path) -> None:
    assert call(*stream(made), "--seeds", "1", "--plot", tmp_path / "p.svg").exit_code == 0
    texts = [one.text for one in ET.parse(tmp_path / "p.svg").iter() if one.text]
    assert "stream.csv: 1,200 questions, orders: 1" in texts
    assert {"certified, by limit", "one threshold", "vCache, by delta", "0.95", "2 %"} <= set(texts)


PAIRS = [
    ("how do I block my card", "how can I block my card", 1, ""),
    ("block my card please", "please block my card", 1, ""),
    ("what does a transfer cost", "how much is a transfer", 1, ""),
    ("send 10 euros", "send 20 euros", 0, "number"),
    ("can I block my card", "can I not block my card", 0, "negation"),
    ("is paris larger than rome", "is rome larger than paris", 0, "order"),
]


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[str | Path, ...]:
    rows = [{"left": a, "right": b, "same": same, "trap": kind or "-"} for a, b, same, kind in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw = np.random.default_rng(1)
    places: dict[str, Floats] = {}
    for a, b, same, _ in PAIRS:
        places[a] = np.asarray(draw.normal(size=DIMENSIONS), "f4")
        places[b] = places[a] + np.asarray(draw.normal(size=DIMENSIONS) * (0.6 if same else 0.1), "f4")
    vectors = keep(tmp_path / "pairs.npz", places)
    return ("--pairs", tmp_path / "pairs.jsonl", "--columns", "left,right,same,trap", "--vectors", vectors)


def test_pairs_are_told_by_score_and_kind_of_trap(pairs: tuple[str | Path, ...]) -> None:
    found = told(*pairs)
    assert found["settings"] == {
        "pairs": "pairs.jsonl",
        "paraphrases": 3,
        "traps": 3,
        "too_long": 0,
        "embedder": "minilm",
    }
    assert set(found["scores"]) == {"cosine", "cosine and vetoes", "cues and vetoes", "score"}
    cosine, vetoed = found["scores"]["cosine"], found["scores"]["cosine and vetoes"]
    assert cosine["auc"] == 0.0
    assert vetoed["auc"] == 1.0
    assert set(cosine["cuts"][0]["traps_by_kind"]) == {"negation", "number", "order"}
    assert cosine["recall"] == {"0.95": 0.0, "0.99": 0.0}
    shown = call(*pairs).stdout
    assert "recall at 0.95" in shown
    assert "negation" in shown
    assert "cosine and vetoes" in shown


def test_what_cannot_be_evaluated_is_told(made: Path, tmp_path: Path, pairs: tuple[str | Path, ...]) -> None:
    def error(*words: str | Path) -> str:
        result = call(*words)
        assert result.exit_code == 1
        assert "Traceback" not in result.stderr
        return str(result.stderr)

    assert "give either --stream FILE or --pairs FILE" in error()
    assert "give either --stream FILE or --pairs FILE" in error(*stream(made), *pairs[:2])
    assert "ends in .svg" in error(*stream(made), "--plot", "p.png")
    assert "row 2 has no column 'text'; it has 'question', 'intent'" in error("--stream", made / "stream.csv")
    assert "No such file" in error("--stream", tmp_path / "none.csv")
    assert "--columns" in error(*pairs[:2])
    assert "--columns left,right: names two texts and a label" in error(*pairs[:2], "--columns", "left,right")
    folder = tmp_path / "folder.svg"
    folder.mkdir()
    assert "--plot" in error(*stream(made), "--limit", "20", "--seeds", "1", "--plot", folder)
    other = keep(tmp_path / "static.npz", {"a": np.ones(DIMENSIONS, "f4")}, "static")
    assert "has vectors of 'static', not of 'minilm'" in error(*stream(made)[:-1], other)


def test_vectors_that_are_not_there_are_made_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(weights_folder(STATIC).parent))
    rows = "".join(f"where is my {thing},{thing}\nI miss my {thing},{thing}\n" for thing in WORDS)
    (tmp_path / "s.csv").write_text("text,label\n" + rows)
    words = ("--stream", tmp_path / "s.csv", "--embedder", "static", "--vectors", tmp_path / "v.npz", "--seeds", "1")
    first = told(*words)
    assert first["settings"]["embedder"] == "static"
    assert first["static"][0]["hits"] > 0
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setenv("HEADRACE_OFFLINE", "1")
    assert told(*words) == first


def test_a_bar_is_shown_on_terminals_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with bar("replaying", 3) as step:
        step(3)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with bar("replaying", 3) as step:
        step(3)
    assert "replaying" in capsys.readouterr().err


def test_pairs_of_one_sort_are_told(pairs: tuple[str | Path, ...]) -> None:
    result = call(*pairs, "--limit", "3")
    assert result.exit_code == 1
    assert "pairs.jsonl: 3 paraphrases and 0 traps: both are needed" in result.stderr


def test_without_the_extra_it_says_how_to_get_it(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "gateway.cli.cache_evaluate_vectors":
            raise ModuleNotFoundError("No module named 'numpy'", name="numpy")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    result = call(*stream(made))
    assert result.exit_code == 1
    assert 'numpy is not installed: pip install "headrace[semantic-cache]"' in result.stderr
