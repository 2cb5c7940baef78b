"""How `headrace cache evaluate` shows what came out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from rich.table import Table

    from cache.evaluate.figures import Figures
    from cache.evaluate.pairs import Separation
    from cache.evaluate.plot import Curve, Point
    from cache.evaluate.replay import Run

ByNumber = Mapping[float, "Figures"]
"""Figures over all seeds, by threshold or by delta."""


def by_bound(runs: Sequence[Run]) -> dict[float, list[Run]]:
    found: dict[float, list[Run]] = {}
    for run in runs:
        found.setdefault(run.setting.bound.max_wrong_hit_rate, []).append(run)
    return found


def stream_document(runs: Sequence[Run], static: ByNumber, vcache: ByNumber) -> dict[str, object]:
    """`runs`: one per bound and seed; `bounds`, `static`, `vcache`: over all seeds."""
    from cache.evaluate.figures import pooled

    return {
        "runs": [
            {
                "max_wrong_hit_rate": run.setting.bound.max_wrong_hit_rate,
                "seed": run.setting.seed,
                **_figures(run.figures),
                "labels": run.labels,
                "audits": run.audits,
                "spared_rate": _short(run.spared_rate),
                "first_hit": run.first_hit,
                "state": run.state,
                "stated_bound": run.stated_bound,
                "kept": run.kept,
            }
            for run in runs
        ],
        "bounds": [
            {
                "max_wrong_hit_rate": most,
                **_figures(pooled([run.figures for run in some])),
                "kept": all(run.kept for run in some),
            }
            for most, some in by_bound(runs).items()
        ],
        "static": [{"threshold": threshold, **_figures(one)} for threshold, one in static.items()],
        "vcache": {f"{delta:g}": _figures(one) for delta, one in vcache.items()},
    }


def _figures(figures: Figures) -> dict[str, object]:
    return {name: _short(value) for name, value in msgspec.structs.asdict(figures).items()}


def _short(value: object) -> object:
    """To six digits: more would be noise."""
    if isinstance(value, tuple):
        return [_short(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def stream_table(runs: Sequence[Run], static: ByNumber, vcache: ByNumber) -> Table:
    """A row per run, and one per threshold and delta over all seeds."""
    from rich.table import Table

    table = Table("", box=None, pad_edge=False)
    for heading in (
        "hits",
        "wrong, of hits",
        "95 % interval",
        "wrong, of all",
        "hits by quarter",
        "first",
        "labels",
        "audits",
    ):
        table.add_column(heading, justify="right")
    table.add_column("")
    for run in runs:
        name = f"certified, at most {_percent(run.setting.bound.max_wrong_hit_rate)}, seed {run.setting.seed}"
        broken = "" if run.kept else ", limit broken"
        table.add_row(
            name,
            *_row(run.figures),
            str(run.first_hit or "-"),
            str(run.labels),
            str(run.audits),
            f"{run.state}{broken}",
        )
    for threshold, figures in static.items():
        table.add_row(f"cosine of {threshold:.2f} and more", *_row(figures), "-", "-", "-", "")
    for delta, figures in vcache.items():
        table.add_row(f"vCache, {_percent(delta)} of all", *_row(figures), "-", "-", "-", "")
    return table


def _row(figures: Figures) -> Sequence[str]:
    low, high = figures.interval
    return (
        f"{figures.hit_rate:.1%}",
        f"{figures.wrong_per_hit:.2%}" if figures.hits else "-",
        f"{low:.2%} to {high:.2%}" if figures.hits else "-",
        f"{figures.wrong_per_request:.2%}",
        " ".join(f"{share:.0%}" for share in figures.hits_by_quarter),
    )


def pair_table(found: Mapping[str, Separation]) -> Table:
    """A row per score and cut."""
    from rich.table import Table

    kinds = sorted({kind for one in found.values() for cut in one.cuts for kind in cut.traps_by_kind})
    table = Table("", box=None, pad_edge=False)
    recalls = [f"recall at {share}" for share in next(iter(found.values())).recall]
    for heading in ("AUC", *recalls, "from", "paraphrases", "traps", *kinds):
        table.add_column(heading, justify="right")
    for name, one in found.items():
        whole = [name, f"{one.auc:.3f}", *(f"{share:.1%}" for share in one.recall.values())]
        for cut in one.cuts:
            by_kind = (f"{cut.traps_by_kind[kind]:.1%}" for kind in kinds)
            table.add_row(*whole, f"{cut.score:.3f}", f"{cut.paraphrases:.1%}", f"{cut.traps:.1%}", *by_kind)
            whole = [""] * len(whole)
    return table


def curves(runs: Sequence[Run], static: ByNumber, vcache: ByNumber) -> list[Curve]:
    """For the plot: over all seeds."""
    from cache.evaluate.figures import pooled
    from cache.evaluate.plot import Curve

    certified = {most: pooled([run.figures for run in some]) for most, some in by_bound(runs).items()}
    return [
        Curve("certified, by limit", [_point(one, _percent(most)) for most, one in sorted(certified.items())]),
        Curve("one threshold", [_point(one, f"{threshold:.2f}") for threshold, one in static.items()]),
        Curve("vCache, by delta", [_point(one, _percent(delta)) for delta, one in sorted(vcache.items())]),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _point(figures: Figures, name: str) -> Point:
    from cache.evaluate.plot import Point

    low, high = figures.interval
    return Point(figures.hit_rate, 1.0 - figures.wrong_per_hit, (1.0 - high, 1.0 - low), name)


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal; nothing elsewhere. Yields what is to be called with how many of `total` steps are done."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as shown:
        task = shown.add_task("", total=total)
        yield lambda count: shown.advance(task, count)
