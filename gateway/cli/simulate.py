"""`headrace simulate`: what each policy would do to a trace, on simulated engines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from gateway.cli.output import say
from gateway.simulator.batch import Batch, run_all
from gateway.simulator.plan import Price, Setting
from gateway.simulator.report import Outcome, Slo
from gateway.simulator.trace import BadTrace
from gateway.simulator.traces import read_trace
from router.policies import POLICIES

if TYPE_CHECKING:
    from rich.table import Table

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


def simulate(
    trace: Path = typer.Option(..., help="A Mooncake trace, an Azure trace, or an access log of this gateway."),
    replicas: int | None = typer.Option(None, min=1, max=512, help="Engines.  [default: 8]"),
    speeds: str = typer.Option("1", help="Share of full speed: one for all, or one per engine: `1,1,0.5`."),
    rtts: str = typer.Option("0", help="Round trip in seconds: one for all, or one per engine: `0,0,0.08`."),
    prices: str = typer.Option(
        "", help="USD for a million tokens in and out: one for all, or per engine: `0,0,2.5:10`."
    ),
    scale: float = typer.Option(1.0, min=0.001, max=1000.0, help="Play the trace at this many times its speed."),
    limit: int | None = typer.Option(None, min=1, help="Only the first so many requests."),
    policy: str = typer.Option("all", help="`all`, or names separated by commas."),
    seeds: int = typer.Option(5, min=1, max=1000, help="Runs of each policy; the figures are medians over them."),
    kv_tokens: int = typer.Option(768_000, min=1024, help="Tokens that fit the KV cache of an engine."),
    step_tokens: int = typer.Option(8192, min=1, help="Most tokens in one step of an engine."),
    slo_ttft: float = typer.Option(2.0, min=0.0, help="Target for TTFT in seconds, or twice the prefill if longer."),
    slo_tpot: float = typer.Option(0.1, min=0.0, help="Target for TPOT in seconds."),
    processes: int = typer.Option(0, min=0, max=256, help="Processes to use; 0: one per core."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object: `settings`, and `policies` by name."),
) -> None:
    """Play a trace against simulated engines, and tell what each policy makes of it.

    The policies are those of the gateway; time is virtual. Equal arguments give equal figures. Latencies are as a
    client sees them. `SLO met`: the share of requests within both targets. `hits`: cached tokens per prompt token.
    """
    names = _policies(policy)
    count, speed_of, rtt_of, price_of = _engines(replicas, speeds, rtts, prices)
    setting = Setting(speed_of, rtt_of, scale, kv_tokens, step_tokens, prices=price_of)
    try:
        played = read_trace(trace, limit)
    except BadTrace as error:
        _refuse(str(error))
    if kv_tokens < played.block_tokens:
        _refuse(f"--kv-tokens {kv_tokens} is less than one block of the trace, {played.block_tokens} tokens")
    batch = Batch(played, {name: setting.plan(name) for name in names}, Slo(slo_ttft, tpot_s=slo_tpot))
    with _progress(len(names) * seeds) as done:
        outcomes = run_all(batch, seeds, processes, done)
    settings = {
        "trace": played.name,
        "requests": len(played.requests),
        "replicas": count,
        "speeds": speed_of,
        "rtts_s": rtt_of,
        "scale": scale,
        "seeds": seeds,
        "kv_tokens": kv_tokens,
        "block_tokens": played.block_tokens,
        "step_tokens": step_tokens,
        "slo_ttft_s": slo_ttft,
        "slo_tpot_s": slo_tpot,
    }
    if as_json:
        figures = {name: {k: _rounded(v) for k, v in one.figures.items()} for name, one in outcomes.items()}
        typer.echo(json.dumps({"settings": settings, "policies": figures}, indent=2))
    else:
        _console_print(_table(outcomes))


def _policies(given: str) -> list[str]:
    if given == "all":
        return sorted(POLICIES)
    names = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    wrong = next((name for name in names if name not in POLICIES), None if names else given)
    if wrong is not None:
        _refuse(f"--policy: {wrong!r} is no policy; known: {', '.join(sorted(POLICIES))}")
    return names


def _engines(
    replicas: int | None, speeds: str, rtts: str, prices: str
) -> tuple[int, tuple[float, ...], tuple[float, ...], tuple[Price, ...]]:
    """Their number, and per engine the speed, the round trip and, if given, the price."""
    given = {"--speeds": speeds.split(","), "--rtts": rtts.split(","), "--prices": prices.split(",") if prices else []}
    longest = max(len(values) for values in given.values())
    count = replicas or (longest if longest > 1 else 8)
    speed_of, rtt_of, price_of = (_one_each(flag, values, count) for flag, values in given.items())
    return (
        count,
        tuple(_number("--speeds", one, least=1e-3) for one in speed_of),
        tuple(_number("--rtts", one) for one in rtt_of),
        tuple(_price(one) for one in price_of),
    )


def _one_each(flag: str, values: list[str], count: int) -> list[str]:
    if len(values) == 1:
        return values * count
    if values and len(values) != count:
        _refuse(f"{flag} has {len(values)} values for {count} engines; give one for all, or one for each")
    return values


def _price(text: str) -> Price:
    into, _, out = text.partition(":")
    return Price(_number("--prices", into), _number("--prices", out or into))


def _number(flag: str, text: str, least: float = 0.0) -> float:
    try:
        value = float(text)
    except ValueError:
        _refuse(f"{flag}: {text!r} is not a number")
    if not least <= value < 1e6:
        _refuse(f"{flag}: {text.strip()} is not between {least:g} and 1,000,000")
    return value


def _refuse(message: str) -> NoReturn:
    say(message)
    raise typer.Exit(1)


def _rounded(value: float | None) -> float | None:
    return value if value is None or isinstance(value, int) else float(f"{value:.6g}")


def _table(outcomes: dict[str, Outcome]) -> Table:
    from rich.table import Table

    first = next(iter(outcomes.values()))
    columns = [column for column in _COLUMNS if column[1] in first.figures]
    table = Table("policy", box=None, pad_edge=False)
    for heading, _key, _shown in columns:
        table.add_column(heading, justify="right")
    for name, one in sorted(outcomes.items(), key=lambda item: item[1].figures["mean_ttft_s"] or 0.0):
        table.add_row(name, *(_cell(one.figures[key], key, shown) for _heading, key, shown in columns))
    return table


def _cell(value: float | None, key: str, shown: str) -> str:
    if value is None:
        return "-"
    return shown.format(value * 1e3 if "tpot" in key else value)


def _console_print(table: Table) -> None:
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
    console.print(table)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
