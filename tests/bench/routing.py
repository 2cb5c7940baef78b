"""`python -m tests.bench.routing`: routers in front of the same real vLLM engines, under the same conversations.

Conversations share system prompts, and not all of them fit into each engine's KV cache. All routers get the same ones
in turn, in rounds whose order rotates, each time with empty caches and a router that was just started. TTFT and E2E are
what the client sees; the hit rate is by the engines' own counters.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import typer
import uvloop

from tests.bench.conversations import Answer, Shape, conversations, talk
from tests.bench.routers import Engine, Routers, Vllm, started

ROOT = Path(__file__).parents[2]
COLUMNS = {
    "mean_ttft_ms": "TTFT mean ms",
    "p50_ttft_ms": "p50",
    "p99_ttft_ms": "p99",
    "mean_e2e_ms": "E2E mean ms",
    "hit_rate": "hit rate",
    "busy": "busy",
    "errors": "errors",
    "within_block": "within a block",
}
"""Figures of a run that the table shows: the medians of the rounds."""


@dataclass(frozen=True, slots=True)
class Run:
    """One load through one router.

    hit_rate:     tokens found in the engines' prefix caches over tokens looked up, by their own counters.
    shares:       each engine's share of the requests.
    busy:         CPU seconds of the engines per second and engine; 0.0 if they were not started here.
    exact:        replicas whose KV caches Headrace knew exactly when the load began.
    within_block: share of requests for which what Headrace predicted the engine to hold was within one block of what
                  the engine then said; None: not told.
    """

    router: str
    round: int
    requests: int
    errors: int
    mean_ttft_ms: float
    p50_ttft_ms: float
    p99_ttft_ms: float
    mean_e2e_ms: float
    hit_rate: float
    shares: list[float]
    busy: float
    wall_s: float
    exact: int | None = None
    within_block: float | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    shape: Shape
    seed: int
    block_tokens: int
    engines: list[Engine]
    routers: Routers

    async def rounds(self, names: list[str], count: int) -> list[Run]:
        runs = []
        for number in range(count):
            turned = number % len(names)
            for name in names[turned:] + names[:turned]:
                runs.append(await self._run(name, number))
                print(_line(asdict(runs[-1])), file=sys.stderr, flush=True)
        return runs

    async def _run(self, name: str, number: int) -> Run:
        """Start the router, empty the engines, and have this round's conversations."""
        async with self.routers.running(name, [one.url for one in self.engines]) as router:
            emptied = [await one.emptied(self.routers.name) for one in self.engines]
            mark = "" if all(emptied) else f"{len(self.routers.runs):04} "
            load = conversations(self.shape, self.seed + number, mark)
            before = [await one.counters() for one in self.engines]
            began_s = time.monotonic()
            answers = await talk(router.url, self.routers.name, load)
            wall_s = time.monotonic() - began_s
            after = [await one.counters() for one in self.engines]
        spent = [b.since(a) for a, b in zip(before, after, strict=True)]
        requests = sum(one.requests for one in spent)
        ttft_ms, e2e_ms = ([1e3 * value for value in values] for values in zip(*_times(answers), strict=True))
        return Run(
            router=name,
            round=number,
            requests=len(answers),
            errors=sum(bool(one.error) for one in answers),
            mean_ttft_ms=statistics.mean(ttft_ms),
            p50_ttft_ms=_quantile(ttft_ms, 0.5),
            p99_ttft_ms=_quantile(ttft_ms, 0.99),
            mean_e2e_ms=statistics.mean(e2e_ms),
            hit_rate=sum(one.hits for one in spent) / max(1.0, sum(one.queries for one in spent)),
            shares=[round(one.requests / max(1.0, requests), 3) for one in spent],
            busy=sum(one.cpu_s for one in spent) / wall_s / len(spent),
            wall_s=wall_s,
            exact=router.exact,
            within_block=_within_block(router.log, len(answers), self.block_tokens),
        )


def _times(answers: list[Answer]) -> list[tuple[float, float]]:
    return [(one.ttft_s, one.e2e_s) for one in answers if not one.error]


def _quantile(values: list[float], share: float) -> float:
    """The lowest value that so large a share does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


class _Logged(msgspec.Struct):
    """Of a line of Headrace's access log."""

    status: int
    tokens_cached: int = 0
    tokens_predicted_cached: int = 0


def _within_block(log: Path | None, requests: int, block_tokens: int) -> float | None:
    """Of the last so many requests of the log."""
    if log is None:
        return None
    lines = [msgspec.json.decode(line, type=_Logged) for line in log.read_bytes().splitlines()[-requests:]]
    off = [abs(one.tokens_predicted_cached - one.tokens_cached) for one in lines if one.status == 200]
    return sum(tokens <= block_tokens for tokens in off) / len(off)


def medians(runs: list[Run]) -> dict[str, dict[str, object]]:
    """By router: of each figure the median of its rounds; errors add up."""
    found: dict[str, dict[str, object]] = {}
    for name in dict.fromkeys(run.router for run in runs):
        rows = [asdict(run) for run in runs if run.router == name]
        told = {key: [row[key] for row in rows if row[key] is not None] for key in COLUMNS}
        line: dict[str, object] = {key: statistics.median(values) for key, values in told.items() if values}
        shares = zip(*(row["shares"] for row in rows), strict=True)
        found[name] = {**line, "errors": sum(told["errors"]), "shares": [statistics.median(one) for one in shares]}
    return found


def _line(row: dict[str, object]) -> str:
    cells = [f"{row['router']!s:20}"]
    for key, title in COLUMNS.items():
        value = row.get(key)
        text = "-" if value is None else f"{value:.3f}" if isinstance(value, float) and value <= 1 else f"{value:.0f}"
        cells.append(text.rjust(len(title)))
    return "  ".join([*cells, " ".join(f"{share:.2f}" for share in row["shares"])])  # type: ignore[attr-defined]


def _where() -> dict[str, object]:
    git = subprocess.run(
        ("git", "-C", ROOT, "rev-parse", "--short", "HEAD"), capture_output=True, text=True, check=False
    )
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
    line = " ".join(["python -m tests.bench.routing", *sys.argv[1:]])
    return {"commit": git.stdout.strip(), "machine": machine, "load_1m": os.getloadavg()[0], "command": line}


ROUTERS = "headrace,headrace-predicted,round_robin,smg,vllm-router"


def routing(
    routers: str = typer.Option(
        ROUTERS, help="Any of these, and Headrace's policies by name. `headrace-predicted` hears no KV events."
    ),
    engine_urls: str = typer.Option("", help="Engines that run already, separated by commas."),
    engines: int = typer.Option(2, min=1, help="vLLM engines to start."),
    vllm_python: str = typer.Option("", help="A Python that has vLLM."),
    model: str = typer.Option("", help="Folder of the model; without it Headrace reads prompts by bytes."),
    smg: str = typer.Option("smg", help="The executable of SMG."),
    vllm_router: str = typer.Option("vllm-router", help="The executable of vllm-router."),
    name: str = typer.Option("m", help="Name under which the engines serve the model."),
    rounds: int = typer.Option(3, min=1),
    conversations: int = typer.Option(30, min=1, help="Of each round and router."),
    rate: float = typer.Option(0.6, help="Conversations that begin per second."),
    groups: int = typer.Option(6, min=1, help="System prompts."),
    seed: int = typer.Option(1, help="Of the conversations; that of a round is its number more."),
    block_tokens: int = typer.Option(32, help="Length of a KV block."),
    kv_blocks: int = typer.Option(128, help="KV blocks of each engine that is started."),
    max_tokens: int = typer.Option(1536, help="The longest prompt and answer of an engine that is started."),
    logs: str = typer.Option("", help="Folder for what engines and routers write; without it nothing stays."),
    as_json: bool = typer.Option(False, "--json", help="Print settings, medians and all runs as JSON."),
) -> None:
    """Compare routers on the same engines and the same load. Needs the machine for itself."""
    if not engine_urls and not (vllm_python and model):
        raise typer.BadParameter("name engines that run, or --vllm-python and --model to start some")
    shape = Shape(conversations, rate, groups)
    peers = {"smg": smg, "vllm-router": vllm_router}
    with tempfile.TemporaryDirectory(prefix="headrace-routing-") as scratch:
        folder = Path(logs or scratch)
        where = _where()
        how = Vllm(vllm_python, model, name, block_tokens, kv_blocks, max_tokens)

        async def measure() -> list[Run]:
            async with AsyncExitStack() as stack:
                if engine_urls:
                    found = [Engine(url) for url in engine_urls.split(",")]
                else:
                    found = await stack.enter_async_context(started(how, engines, folder))
                bench = Bench(shape, seed, block_tokens, found, Routers(name, model, peers, folder))
                return await bench.rounds(routers.split(","), rounds)

        runs = uvloop.run(measure())
    found = medians(runs)
    if as_json:
        settings = {
            **where,
            "shape": asdict(shape),
            "seed": seed,
            "engine": asdict(how),
            "engines": engine_urls or engines,
        }
        print(json.dumps({"settings": settings, "routers": found, "runs": [asdict(run) for run in runs]}, indent=1))
        return
    print("  ".join([f"{'router':20}", *COLUMNS.values(), "shares"]))
    for router, row in found.items():
        print(_line({"router": router, **row}))


if __name__ == "__main__":
    typer.run(routing)
