"""`headrace simulate`: what a policy, or a change of the configuration, would do to a trace."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import typer

from gateway.cli.output import refuse
from gateway.cli.simulate_output import changes, config_table, policy_table, progress, rounded, show
from gateway.cli.simulate_values import engines, policies, trace_in, wrong
from gateway.config.load import load_config
from gateway.config.problems import ConfigError
from gateway.simulator.access_trace import Log, open_log
from gateway.simulator.batch import Batch, run_all
from gateway.simulator.configs import fitted, plan_of, scenery
from gateway.simulator.plan import Plan, QueueSpec, Setting
from gateway.simulator.plot import cdf_svg
from gateway.simulator.report import Outcome, Slo, measured_figures
from gateway.simulator.trace import BadTrace, Trace

_QUEUE = QueueSpec()


class Knowing(StrEnum):
    exact = "exact"
    predicted = "predicted"


def simulate(
    trace: Path | None = typer.Option(None, help="A Mooncake trace, an Azure trace, or an access log of this gateway."),
    from_log: Path | None = typer.Option(None, help="An access log, to be played against `--config`."),
    config: Path | None = typer.Option(None, "--config", "-c", help="With --from-log: a configuration."),
    against: Path | None = typer.Option(None, help="With --config: the configuration that it is compared with."),
    replicas: int | None = typer.Option(None, min=1, max=512, help="Engines; 8 if nothing says otherwise."),
    speeds: str = typer.Option("1", help="Share of full speed: one for all, or one per engine: `1,1,0.5`."),
    rtts: str = typer.Option("0", help="Round trip in seconds: one for all, or one per engine: `0,0,0.08`."),
    prices: str = typer.Option("", help="USD for a million tokens, in or in:out: one, or one per engine: `0,2.5:10`."),
    scale: float = typer.Option(1.0, min=0.001, max=1000.0, help="Play the trace at this many times its speed."),
    limit: int | None = typer.Option(None, min=1, help="Only the first so many requests."),
    policy: str = typer.Option("all", help="`all`, or names separated by commas."),
    seeds: int = typer.Option(5, min=1, max=1000, help="Runs of each policy; the figures are medians over them."),
    kv_tokens: int = typer.Option(768_000, min=1024, help="Tokens that fit the KV cache of an engine."),
    step_tokens: int = typer.Option(8192, min=1, help="Most tokens in one step of an engine."),
    prefix: Knowing = typer.Option(
        Knowing.exact, help="What is known of the engines' caches: as by KV events, or not."
    ),
    max_in_flight: int | None = typer.Option(None, min=1, help="Requests at one engine at most; more are refused."),
    queue: bool = typer.Option(False, "--queue", help="Let requests wait in the gateway, as by default in `serve`."),
    hold_over: float = typer.Option(_QUEUE.hold_over_s, min=0.0, help="With --queue: as `queue.hold_over_s`."),
    slo_ttft: float = typer.Option(2.0, min=0.0, help="Target for TTFT in seconds, or twice the prefill if longer."),
    slo_tpot: float = typer.Option(0.1, min=0.0, help="Target for TPOT in seconds."),
    processes: int = typer.Option(0, min=0, max=256, help="Processes to use; 0: one per core."),
    plot: Path | None = typer.Option(None, help="Folder for the distributions of TTFT, TPOT and E2E, as SVG."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object: `settings`, and the figures by name."),
) -> None:
    """Play a trace against simulated engines, and tell what each policy makes of it.

    The policies are those of the gateway; time is virtual. Equal arguments give equal figures. Latencies are as a
    client sees them. `SLO met`: the share of requests within both targets. `hits`: cached tokens per prompt token.

    With --from-log and --config: what the deployments, pools, limits and queues of a configuration would have made of
    logged traffic, and with --against what would have changed. How fast the engines are is learned from the log: they
    are set such that --against, the configuration that wrote it, takes the times that are in it.
    """
    load = _Load(scale, limit, kv_tokens, step_tokens)
    how = _How(seeds, processes, plot, as_json, Slo(slo_ttft, tpot_s=slo_tpot))
    if from_log is not None and config is not None and trace is None:
        if replicas or max_in_flight or queue or prices or (policy, speeds, rtts) != ("all", "1", "0"):
            wrong("--policy, --replicas, --speeds, --rtts, --prices, --max-in-flight and --queue go with --trace only")
        _compare_configs(from_log, config, against, load, how)
        return
    if trace is None or from_log or config or against:
        wrong("give --trace FILE, or --from-log FILE with --config FILE")
    names = policies(policy)
    speed_of, rtt_of, price_of = engines(replicas, speeds, rtts, prices)
    setting = Setting(
        speed_of,
        rtt_of,
        scale,
        kv_tokens,
        step_tokens,
        prefix.value,
        price_of,
        max_in_flight,
        QueueSpec(hold_over_s=hold_over) if queue else None,
    )
    _compare_policies(trace_in(trace, limit, kv_tokens), names, setting, how)


@dataclass(frozen=True, slots=True)
class _Load:
    scale: float
    limit: int | None
    kv_tokens: int
    step_tokens: int


@dataclass(frozen=True, slots=True)
class _How:
    """To run, and to show what came out."""

    seeds: int
    processes: int
    plot: Path | None
    as_json: bool
    slo: Slo

    def run(self, trace: Trace, plans: dict[str, Plan]) -> dict[str, Outcome]:
        with progress(len(plans) * self.seeds) as done:
            outcomes = run_all(Batch(trace, plans, self.slo), self.seeds, self.processes, done)
        if self.plot is not None:
            _plot(self.plot, trace, outcomes)
        return outcomes

    def settings(self, trace: Trace, load: _Load | Setting) -> dict[str, object]:
        return {
            "trace": trace.name,
            "requests": len(trace.requests),
            "skipped": trace.skipped,
            "scale": load.scale,
            "seeds": self.seeds,
            "kv_tokens": load.kv_tokens,
            "block_tokens": trace.block_tokens,
            "step_tokens": load.step_tokens,
            "slo_ttft_s": self.slo.ttft_s,
            "slo_tpot_s": self.slo.tpot_s,
        }


def _compare_policies(trace: Trace, names: list[str], setting: Setting, how: _How) -> None:
    outcomes = how.run(trace, {name: setting.plan(name) for name in names})
    if not how.as_json:
        show(policy_table(outcomes))
        return
    settings = how.settings(trace, setting) | {
        "replicas": len(setting.speeds),
        "speeds": setting.speeds,
        "rtts_s": setting.rtts_s,
        "prefix": setting.knowing,
        "max_in_flight": setting.max_in_flight,
        "hold_over_s": None if setting.queue is None else setting.queue.hold_over_s,
    }
    figures = {name: rounded(one.figures) for name, one in outcomes.items()}
    typer.echo(json.dumps({"settings": settings, "policies": figures}, indent=2))


def _compare_configs(from_log: Path, config: Path, against: Path | None, load: _Load, how: _How) -> None:
    try:
        old, new = None if against is None else load_config(against), load_config(config)
        log = open_log(from_log, load.limit)
    except ConfigError as error:
        refuse(error)
    except BadTrace as error:
        wrong(str(error))
    seen = scenery(log, load.scale, load.kv_tokens, load.step_tokens)
    if old is not None:
        seen = fitted(log, old, seen)
    plans = {name: plan_of(one, seen) for name, one in (("old", old), ("new", new)) if one is not None}
    outcomes = how.run(log.trace, plans)
    measured = measured_figures(log.measured)
    if how.as_json:
        typer.echo(json.dumps(_document(how.settings(log.trace, load), measured, outcomes), indent=2))
    else:
        show(config_table(measured, outcomes))
        typer.echo(_played(log))


def _document(
    settings: dict[str, object], measured: dict[str, float | None], outcomes: dict[str, Outcome]
) -> dict[str, object]:
    document: dict[str, object] = {"settings": settings, "measured": rounded(measured)}
    document |= {name: rounded(one.figures) for name, one in outcomes.items()}
    if "old" in outcomes:
        document["change"] = rounded(changes(outcomes["old"].figures, outcomes["new"].figures))
    return document


def _played(log: Log) -> str:
    skipped = f"; {log.trace.skipped} lines without tokens were left out" if log.trace.skipped else ""
    return f"\n{len(log.trace.requests)} requests{skipped}"


def _plot(folder: Path, trace: Trace, outcomes: dict[str, Outcome]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("ttft", "tpot", "e2e"):
            curves = {policy: one.curves[name] for policy, one in outcomes.items()}
            (folder / f"{name}.svg").write_text(cdf_svg(f"{name.upper()}, {trace.name}", curves), encoding="utf-8")
    except OSError as error:
        wrong(f"--plot {folder}: {error.strerror}")
