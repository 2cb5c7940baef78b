"""`python -m tests.bench`: what the gateway costs, as JSON lines. Ratios within one run hold; absolute times drift."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import typer
import uvloop

from tests.bench import measures
from tests.bench.rig import engine_process, gateway_process, load

ROOT = Path(__file__).parents[2]
COMPARE_PORT = 8080

Line = dict[str, object]


async def _cost(rounds: int) -> list[Line]:
    one = await measures.cost(1, rounds, pin=True)
    lines: list[Line] = []
    for name, unit in (("us_per_request", "us of CPU per request"), ("us_per_token", "us of CPU per streamed token")):
        values = [getattr(found, name) for found in one]
        lines.append({"what": "cost, 1 worker", "unit": unit, "value": statistics.median(values), "rounds": values})
    return lines


async def _workers(rounds: int) -> list[Line]:
    """One gateway with one worker, one with two, and two with one each, anywhere on the machine, in turn."""
    lines: list[Line] = []
    sides = ((1, 1), (2, 1), (1, 2))
    found = [[(await measures.cost(w, 1, pin=False, gateways=g))[0] for w, g in sides] for _ in range(rounds)]
    for name in ("us_per_request", "us_per_token"):
        one, two, apart = ([getattr(cost, name) for cost in side] for side in zip(*found, strict=True))
        lines.append(_ratio(f"cost of 2 workers over 1, {name}", two, one, limit=1.10))
        lines.append(_ratio(f"cost of 2 workers over 2 gateways of 1 worker, {name}", two, apart, limit=1.10))
    return lines


def _ratio(what: str, over: list[float], under: list[float], **limit: float) -> Line:
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return {"what": what, "unit": "ratio", "value": statistics.median(ratios), **limit, "rounds": ratios}


async def _latency(rounds: int) -> list[Line]:
    found = await measures.latency_ms(rounds)
    return [_paired("added latency, one request at a time, p50", "ms", found, found.added)]


async def _gaps(rounds: int) -> list[Line]:
    found = await measures.gap_p99_ms(rounds)
    return [_paired("added gap between tokens, 200 streams, p99 (A12)", "ms", found, found.added, limit=5.0)]


async def _saturation(rounds: int) -> list[Line]:
    found = await measures.saturated_tokens_per_s(rounds)
    return [_paired("throughput at the engine's saturation (A16)", "ratio", found, found.ratio, at_least=0.97)]


async def _streams(_: int) -> list[Line]:
    found = await measures.open_streams()
    errors = {"what": "2,000 open streams", "unit": "errors", "value": sum(found.failures.values()), "limit": 0}
    memory = {"what": "memory of an open stream", "unit": "bytes", "value": found.bytes_per_stream, "limit": 40_000}
    return [{**errors, "opened": found.opened}, {**memory, "rss_before_bytes": found.rss_before_bytes}]


def _paired(what: str, unit: str, found: measures.Paired, value: float, **limit: float) -> Line:
    return {"what": what, "unit": unit, "value": value, **limit, "direct": found.direct, "through": found.through}


MEASURES: dict[str, Callable[[int], Awaitable[list[Line]]]] = {
    "cost": _cost,
    "workers": _workers,
    "latency": _latency,
    "gaps": _gaps,
    "saturation": _saturation,
    "streams": _streams,
}

ONLY = typer.Option([], help=f"What to measure; repeatable.  [default: all of {', '.join(MEASURES)}]")
COMPARE = typer.Option(None, help="Run this comparison script on the gateway instead.")


def bench(
    only: list[str] = ONLY,
    rounds: int = typer.Option(3, min=1, help="Rounds of each comparison; their median counts."),
    profile: bool = typer.Option(False, "--profile", help="Show where the time goes instead; needs py-spy."),
    compare: Path | None = COMPARE,
) -> None:
    """Measure the gateway on this machine, alone on it if the figures are to mean anything."""
    unknown = sorted(set(only) - set(MEASURES))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(MEASURES)}", param_hint="--only")
    if compare is not None:
        raise typer.Exit(_compare(compare, rounds))
    if profile:
        uvloop.run(_profile())
        return
    for name in only or MEASURES:
        for line in uvloop.run(_measured(name, rounds)):
            print(json.dumps(line), flush=True)


async def _measured(name: str, rounds: int) -> list[Line]:
    return [{**line, **_where()} for line in await MEASURES[name](rounds)]


def _where() -> Line:
    git = subprocess.run(
        ("git", "-C", ROOT, "rev-parse", "--short", "HEAD"), capture_output=True, text=True, check=False
    )
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
    load_1m = round(os.getloadavg()[0], 2)
    return {
        "commit": git.stdout.strip() or "unknown",
        "machine": machine,
        "load_1m": load_1m,
        "python": platform.python_version(),
        "command": f"python -m tests.bench {' '.join(sys.argv[1:])}".rstrip(),
    }


def _compare(script: Path, rounds: int) -> int:
    """`script --ours COMMAND --ours-port PORT --rounds N`, which prints its own figures."""
    ours = f"{ROOT / 'tests/bench/gateway_for_compare.sh'} {COMPARE_PORT}"
    command = (sys.executable, str(script), "--ours", ours, "--ours-port", str(COMPARE_PORT), "--rounds", str(rounds))
    return subprocess.run(command, check=False).returncode


async def _profile() -> None:
    """A flame graph of one worker, under whole answers and streams together."""
    py_spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if py_spy is None:
        raise typer.BadParameter("py-spy is not installed: pip install py-spy", param_hint="--profile")
    image = Path(tempfile.gettempdir()) / "headrace-profile.svg"
    async with (
        engine_process("--itl", "0.01", "--output-tokens", "100", cores=measures.LOAD_CORES) as engine,
        gateway_process(engine.url, cores=measures.GATEWAY_CORES) as gateway,
    ):
        (worker,) = gateway.workers()
        flags = ("record", "--duration", "15", "--rate", "200", "--output", str(image), "--pid", str(worker))
        spying = await asyncio.create_subprocess_exec(py_spy, *flags)
        kinds = (("-c", "100"), ("-c", "16", "--no-stream"))
        await asyncio.gather(*(load(gateway.url, "-d", "15", *kind, cores=measures.LOAD_CORES) for kind in kinds))
        if await spying.wait():
            raise typer.Exit(1)
    print(f"flame graph: {image}")


if __name__ == "__main__":
    typer.run(bench)
