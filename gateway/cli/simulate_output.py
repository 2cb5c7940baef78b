"""How `headrace simulate` shows what came out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from gateway.simulator.report import Outcome

Figures = Mapping[str, float | None]

_PIPE_WIDTH = 200
_COLUMNS = (
    ("TTFT mean s", "mean_ttft_s", "{:.2f}"),
    ("p50", "p50_ttft_s", "{:.2f}"),
    ("p90", "p90_ttft_s", "{:.2f}"),
    ("p99", "p99_ttft_s", "{:.1f}"),
    ("TPOT mean ms", "mean_tpot_s", "{:.0f}"),
    ("p99", "p99_tpot_s", "{:.0f}"),
    ("E2E mean s", "mean_e2e_s", "{:.1f}"),
    ("p50", "p50_e2e_s", "{:.1f}"),
    ("p90", "p90_e2e_s", "{:.1f}"),
    ("p99", "p99_e2e_s", "{:.1f}"),
    ("SLO met", "slo_share", "{:.1%}"),
    ("hits", "hit_rate", "{:.1%}"),
    ("done", "completed_share", "{:.1%}"),
    ("fairness", "fairness", "{:.3f}"),
    ("USD", "price_usd", "{:.2f}"),
)
_ROWS = (
    ("mean TTFT", "mean_ttft_s", "{:.3f} s"),
    ("p90 TTFT", "p90_ttft_s", "{:.3f} s"),
    ("p99 TTFT", "p99_ttft_s", "{:.3f} s"),
    ("mean TPOT", "mean_tpot_s", "{:.1f} ms"),
    ("p99 TPOT", "p99_tpot_s", "{:.1f} ms"),
    ("mean E2E", "mean_e2e_s", "{:.2f} s"),
    ("p90 E2E", "p90_e2e_s", "{:.2f} s"),
    ("p99 E2E", "p99_e2e_s", "{:.2f} s"),
    ("cache hits", "hit_rate", "{:.1%}"),
    ("within the SLO", "slo_share", "{:.1%}"),
    ("goodput", "goodput_rps", "{:.2f} req/s"),
    ("answered", "completed", "{:.0f}"),
    ("fairness", "fairness", "{:.3f}"),
    ("price", "price_usd", "{:.2f} USD"),
)


def rounded(figures: Figures) -> dict[str, float | None]:
    """To six digits: more would be noise."""
    return {
        name: value if value is None or isinstance(value, int) else float(f"{value:.6g}")
        for name, value in figures.items()
    }


def changes(old: Figures, new: Figures) -> dict[str, float | None]:
    """By figure, how much more the new one is, as a share of the old one; None: there is no telling."""
    return {
        name: value / before - 1.0 if value is not None and (before := old.get(name)) else None
        for name, value in new.items()
    }


def policy_table(outcomes: Mapping[str, Outcome]) -> Table:
    """A row per policy, the lowest mean TTFT first."""
    from rich.table import Table

    first = next(iter(outcomes.values()))
    columns = [column for column in _COLUMNS if column[1] in first.figures]
    table = Table("policy", box=None, pad_edge=False)
    for heading, _key, _shown in columns:
        table.add_column(heading, justify="right")
    for name, one in sorted(outcomes.items(), key=lambda item: item[1].figures["mean_ttft_s"] or 0.0):
        table.add_row(name, *(_cell(one.figures[key], key, shown) for _heading, key, shown in columns))
    return table


def config_table(measured: Figures, outcomes: Mapping[str, Outcome]) -> Table:
    """A row per figure: what the log says, what is simulated, and what changes from the old to the new."""
    from rich.table import Table

    figures = {name: one.figures for name, one in outcomes.items()}
    table = Table("", box=None, pad_edge=False)
    both = "old" in figures
    for heading in ("in the log", *figures, *(["change"] if both else [])):
        table.add_column(heading, justify="right")
    changed = changes(figures["old"], figures["new"]) if both else {}
    for heading, key, shown in _ROWS:
        values = [measured.get(key), *(one.get(key) for one in figures.values())]
        if any(value is not None for value in values):
            change = [_change(changed.get(key))] if both else []
            table.add_row(heading, *(_cell(value, key, shown) for value in values), *change)
    return table


def _cell(value: float | None, key: str, shown: str) -> str:
    if value is None:
        return "-"
    return shown.format(value * 1e3 if "tpot" in key else value)


def _change(share: float | None) -> str:
    return "-" if share is None else f"{share:+.1%}"


def show(table: Table) -> None:
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
    console.print(table)


@contextmanager
def progress(total: int) -> Iterator[Callable[[], object]]:
    """A bar on a terminal; nothing elsewhere. Yields what is to be called after each of `total` steps."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
