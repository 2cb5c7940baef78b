"""`headrace cache evaluate`: what the semantic cache would have made of labelled questions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import typer

from cache.evaluate.data import BadData, Pair, Stream, read_pairs, read_stream
from cache.semantics.seam import Bound
from gateway.cli.cache_evaluate_output import bar, pair_table, stream_document, stream_table
from gateway.cli.simulate_output import show
from gateway.cli.simulate_values import wrong

if TYPE_CHECKING:
    from cache.evaluate.figures import Figures
    from cache.evaluate.pairs import Separation
    from cache.evaluate.replay import Run
    from cache.index import Floats

_BOUND = Bound()


class Embedders(StrEnum):
    minilm = "minilm"
    static = "static"


def evaluate(
    stream: Path | None = typer.Option(
        None, help="Questions, each with the label of its answer: CSV, TSV, JSON or JSON lines, also with .gz."
    ),
    pairs: Path | None = typer.Option(None, help="Pairs of questions, each with whether both have one answer."),
    text_column: str = typer.Option("text", help="With --stream: where the question is."),
    label_column: str = typer.Option("label", help="With --stream: where the label of its answer is."),
    alone: str | None = typer.Option(
        None, help="With --stream: label of questions that each have an answer of their own, such as `other`."
    ),
    columns: str = typer.Option("", help="With --pairs: its columns, as `text_a,text_b,label` or with `,kind`."),
    max_wrong_hit_rate: list[float] = typer.Option(
        [0.02], min=0.0001, max=0.4999, help="As in `cache.semantic`; may be given more than once."
    ),
    confidence: float = typer.Option(_BOUND.confidence, min=0.5, max=0.9999, help="As in `cache.semantic`."),
    audit_share: float = typer.Option(_BOUND.audit_share, min=0.0001, max=1.0, help="As in `cache.semantic`."),
    judge_error: float = typer.Option(0.0, min=0.0, max=0.5, help="Share of labels that the judge gets wrong."),
    seeds: int = typer.Option(3, min=1, max=100, help="Orders in which the stream is played."),
    limit: int | None = typer.Option(None, min=2, help="Only the first so many questions or pairs."),
    embedder: Embedders = typer.Option(Embedders.minilm, help="What compares questions."),
    vectors: Path | None = typer.Option(None, help="File that keeps the questions' vectors for the next time."),
    plot: Path | None = typer.Option(None, help="With --stream: precision over hit rate, as SVG into this file."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object."),
) -> None:
    """Play labelled questions through the semantic cache, and tell how many it serves, and how many of them wrongly.

    --stream: each question is asked once, in as many orders as there are --seeds. The decision is the gateway's own,
    and begins with nothing. Beside it stand caches with one threshold for all questions, and vCache. Questions with
    one label have one answer. A file of pairs will do: questions that equal pairs join have one label.

    --pairs: how well a score tells paraphrases from traps, pairs that look alike and have different answers, before
    anything is learned.

    Equal arguments give equal figures. Needs the extra `semantic-cache`.
    """
    if (stream is None) == (pairs is None):
        wrong("give either --stream FILE or --pairs FILE")
    if plot is not None and (stream is None or plot.suffix != ".svg"):
        wrong(f"--plot {plot}: goes with --stream, and into a file whose name ends in .svg")
    named = [name.strip() for name in columns.split(",") if name.strip()]
    if named and len(named) not in (3, 4):
        wrong(f"--columns {columns}: names two texts and a label, and may name a kind")
    asked = _Asked(tuple(dict.fromkeys(max_wrong_hit_rate)), confidence, audit_share, judge_error, seeds)
    how = _How(embedder.value, vectors, plot, as_json)
    try:
        if stream is not None:
            _stream(read_stream(stream, text_column, label_column, limit, alone), asked, how)
        elif pairs is not None:
            _pairs(pairs.name, read_pairs(pairs, named, limit), how)
    except BadData as error:
        wrong(str(error))
    except ModuleNotFoundError as error:
        wrong(f'{error.name} is not installed: pip install "headrace[semantic-cache]"')


@dataclass(frozen=True, slots=True)
class _Asked:
    max_wrong: tuple[float, ...]
    confidence: float
    audit_share: float
    judge_error: float
    seeds: int

    def bound(self, max_wrong: float) -> Bound:
        return Bound(max_wrong, self.confidence, self.audit_share)


@dataclass(frozen=True, slots=True)
class _How:
    embedder: Literal["minilm", "static"]
    vectors: Path | None
    plot: Path | None
    as_json: bool


def _stream(stream: Stream, asked: _Asked, how: _How) -> None:
    from gateway.cli.cache_evaluate_vectors import kept_vectors

    kept = kept_vectors(how.embedder, stream.texts, how.vectors)
    stream, too_long = kept.without_long(stream)
    runs, static, vcache = _played(stream, kept.of(stream.texts), asked)
    if how.plot is not None:
        from cache.evaluate.plot import p_chr_svg
        from gateway.cli.cache_evaluate_output import curves

        title = f"{stream.name}: {len(stream.texts):,} questions, orders: {asked.seeds}"
        try:
            how.plot.write_text(p_chr_svg(title, curves(runs, static, vcache)), encoding="utf-8")
        except OSError as error:
            wrong(f"--plot {how.plot}: {error.strerror}")
    if not how.as_json:
        show(stream_table(runs, static, vcache))
        return
    settings = {
        "stream": stream.name,
        "requests": len(stream.texts),
        "repeats": stream.repeats,
        "too_long": too_long,
        "labels": len(set(stream.labels)),
        "max_wrong_hit_rate": asked.max_wrong,
        "confidence": asked.confidence,
        "audit_share": asked.audit_share,
        "judge_error": asked.judge_error,
        "seeds": asked.seeds,
        "embedder": how.embedder,
    }
    typer.echo(json.dumps({"settings": settings, **stream_document(runs, static, vcache)}, indent=2))


Played = tuple[list["Run"], dict[float, "Figures"], dict[float, "Figures"]]


def _played(stream: Stream, vectors: Floats, asked: _Asked) -> Played:
    """The runs by bound and seed; of the others the figures over all seeds, by threshold and by delta."""
    from cache.evaluate.baselines import THRESHOLDS, Cache, Static, VCache, play
    from cache.evaluate.figures import pooled
    from cache.evaluate.replay import Setting, replay
    from cache.semantics.cohort import Cohort
    from cache.signals import read_signals

    others = []
    with bar("replaying", (len(asked.max_wrong) + 1) * asked.seeds * len(stream.texts)) as step:
        runs = [
            replay(
                stream,
                vectors,
                Setting(asked.bound(most), seed, asked.judge_error),
                Cohort(asked.bound(most)),
                read_signals,
                lambda: step(1),
            )
            for most in asked.max_wrong
            for seed in range(1, asked.seeds + 1)
        ]
        for seed in range(1, asked.seeds + 1):
            caches: list[Cache] = [*map(Static, THRESHOLDS), *(VCache(delta, seed) for delta in asked.max_wrong)]
            others.append(play(stream, vectors, caches, seed, lambda: step(1)))
    found = [pooled(list(figures)) for figures in zip(*others, strict=True)]
    static = dict(zip(THRESHOLDS, found, strict=False))
    return runs, static, dict(zip(asked.max_wrong, found[len(THRESHOLDS) :], strict=True))


def _pairs(name: str, pairs: list[Pair], how: _How) -> None:
    from cache.evaluate.pair_scores import scores
    from cache.evaluate.pairs import separation
    from gateway.cli.cache_evaluate_vectors import kept_vectors

    kept = kept_vectors(how.embedder, [text for pair in pairs for text in (pair.a, pair.b)], how.vectors)
    short = [pair for pair in pairs if kept.has(pair.a) and kept.has(pair.b)]
    try:
        found: dict[str, Separation] = {
            score: separation(values, [pair.equal for pair in short], [pair.kind for pair in short])
            for score, values in scores(short, kept).items()
        }
    except ValueError as error:
        wrong(f"{name}: {error}")
    if not how.as_json:
        show(pair_table(found))
        return
    settings = {
        "pairs": name,
        "paraphrases": sum(pair.equal for pair in short),
        "traps": sum(not pair.equal for pair in short),
        "too_long": len(pairs) - len(short),
        "embedder": how.embedder,
    }
    typer.echo(json.dumps({"settings": settings, "scores": msgspec.to_builtins(found)}, indent=2))
